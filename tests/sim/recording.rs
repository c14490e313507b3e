//! Random worlds are recorded, and the recordings replayed: every call of the loop is the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use saltecho::proto::{Framed, Handler, Upper};
use saltecho::reactor::{Close, Kernel, Note, Token};
use saltecho::server::{Replay, Replayed};
use saltecho::sim::{Faults, SimAdminListener, SimKernel};
use saltecho::trace::{Ending, Event, ReadError, Reader, RecordOptions, Recorder, ReplayKernel};

use crate::world::World;
use crate::world::handler::UpperHandler;
use crate::world::segments::record;

/// The recording of a seed's world.
fn recording(seed: u64, keeps_payload: bool) -> Option<Vec<u8>> {
    let (mut world, file) = World::recorded(seed, keeps_payload)?;
    world.run();
    drop(world);
    let bytes = file.lock().unwrap().clone();
    Some(bytes)
}

fn handler(seed: u64) -> UpperHandler {
    World::draw(saltecho::random::SplitMix::new(seed), false).fresh_handler()
}

/// Replays until something else than a turn comes of it.
fn replay<H: Handler + Clone>(bytes: &[u8], handler: H) -> (Replayed, u64, Option<Ending>) {
    let mut replay = Replay::new(Reader::new(bytes).unwrap(), handler).unwrap();
    loop {
        match replay.turn() {
            Replayed::Turn => {}
            outcome => {
                let reader = replay.reader();
                return (outcome, reader.turn(), reader.ending().cloned());
            }
        }
    }
}

#[test]
fn a_recorded_world_replays_to_its_last_call() {
    let (mut turns, mut sanitized) = (0, 0);
    for seed in 0..150 {
        for keeps_payload in [true, false] {
            let Some(bytes) = recording(seed, keeps_payload) else { continue };
            sanitized += u64::from(!keeps_payload);
            let (outcome, replayed, ending) = replay(&bytes, handler(seed));
            assert!(
                matches!(outcome, Replayed::End),
                "seed {seed}, payload {keeps_payload}: {outcome:?}"
            );
            assert_eq!(ending, Some(Ending::Complete), "seed {seed}");
            turns += replayed;
        }
    }
    assert!(turns > 30_000 && sanitized > 90, "{turns} turns, {sanitized} without payload");
}

#[test]
fn the_recording_of_a_replay_is_the_same_file() {
    for seed in 0..50 {
        for keeps_payload in [true, false] {
            let Some(bytes) = recording(seed, keeps_payload) else { continue };
            let reader = Reader::new(&bytes[..]).unwrap();
            let header = reader.header().clone();
            if header.get("admin") == Some("yes") {
                // Its share of the time of turns is not replayed.
                continue;
            }
            let (kernel, sign) = ReplayKernel::new(reader);
            let options =
                RecordOptions { header: header.clone(), keeps_payload, ..RecordOptions::default() };
            let (kernel, file) = Recorder::to_memory(kernel, options);
            let mut replay = Replay::over(kernel, sign, &header, handler(seed)).unwrap();
            while matches!(replay.turn(), Replayed::Turn) {}
            drop(replay);
            let again = file.lock().unwrap().clone();
            assert!(again == bytes, "seed {seed}, payload {keeps_payload}");
        }
    }
}

/// Nothing of a run depends on the order of a hash map, which is another one in each.
#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 0..200 {
        assert!(recording(seed, true) == recording(seed, true), "seed {seed}");
    }
}

#[test]
fn a_flipped_byte_is_found_where_it_is() {
    let bytes = recording(3, true).expect("payload is kept");
    let header = bytes.windows(2).position(|two| two == b"\n\n").unwrap() + 2;
    let mut last = (0, 0);
    for at in (header + 8..bytes.len()).step_by(97) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let mut reader = Reader::new(&bad[..]).unwrap();
        let fault = loop {
            match reader.next_step() {
                Ok(step) => assert!(step.is_some(), "byte {at} is not missed"),
                Err(error) => break error,
            }
        };
        let ReadError::Damaged { turn, step: Some(step), offset, .. } = fault else {
            panic!("byte {at}: {fault}")
        };
        assert_eq!(offset, at as u64);
        assert!(last <= (turn, step), "byte {at}: turn {turn}, step {step}");
        last = (turn, step);
        let replayed = Replay::new(Reader::new(&bad[..]).unwrap(), handler(3));
        match replayed.map(|_| replay(&bad, handler(3)).0) {
            Ok(Replayed::Unreadable(found)) => assert_eq!(found.to_string(), fault.to_string()),
            Ok(outcome) => panic!("byte {at}: {outcome:?}"),
            Err(found) => assert_eq!(found, fault.to_string()),
        }
    }
    let mut reader = Reader::new(&bytes[..]).unwrap();
    while reader.next_step().unwrap().is_some() {}
    let (turns, steps) = (reader.turn(), reader.step());
    assert!(last.0 > turns / 2 && last.1 > steps / 2 && last.1 <= steps, "{last:?} of {steps}");
}

/// What was recorded up to the death of a process can be used, whole chunk by whole chunk.
#[test]
fn a_file_that_is_cut_off_replays_as_far_as_it_goes() {
    let bytes = recording(5, true).expect("payload is kept");
    for len in [bytes.len() - 1, bytes.len() / 2] {
        let mut replayed = Replay::new(Reader::new(&bytes[..len]).unwrap(), handler(5));
        if let Ok(replay) = &mut replayed {
            let outcome = loop {
                match replay.turn() {
                    Replayed::Turn => {}
                    outcome => break outcome,
                }
            };
            assert!(matches!(outcome, Replayed::End), "{outcome:?}");
            assert_eq!(replay.reader().ending(), Some(&Ending::Cut));
        }
    }
}

/// No byte of a client or of the kernel's random source is in a sanitized recording.
#[test]
fn a_sanitized_recording_has_nothing_of_its_clients() {
    let mut digests = 0;
    for seed in 0..200 {
        let Some((mut world, file)) = World::recorded(seed, false) else { continue };
        world.run();
        let secrets: Vec<Vec<u8>> =
            world.clients.iter().map(|client| client.digest.clone()).collect();
        drop(world);
        let bytes = file.lock().unwrap().clone();
        for secret in secrets.iter().filter(|secret| secret.len() >= 8) {
            digests += 1;
            let found = bytes.windows(8).any(|window| window == &secret[..8]);
            assert!(!found, "seed {seed}: a digest is in the file");
        }
    }
    assert!(digests > 200, "{digests} digests");
}

/// Every event of every world has its line.
#[test]
fn every_event_is_told() {
    let mut told = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut world = World::draw(saltecho::random::SplitMix::new(seed), true);
        let _ = catch_unwind(AssertUnwindSafe(|| world.run()));
        let steps = world.server.kernel_mut().trace();
        for (step, line) in steps.iter().zip(saltecho::trace::lines(steps)) {
            assert!(line.len() < 250, "{line}");
            let name = format!("{:?}", step.event);
            let name: String = name.chars().take_while(char::is_ascii_alphanumeric).collect();
            if matches!(step.event, Event::Note(_)) || told.insert(name) {
                assert!(!line.trim().is_empty());
            }
        }
    }
    assert!(told.len() >= 16, "{told:?}");
}

/// Recordings of the program over real sockets, as tests/data/recordings/record.py makes them.
#[test]
fn the_recordings_of_real_conversations_replay() {
    let replay = |name: &str, framed: bool| {
        let path = format!("{}/tests/data/recordings/{name}.rec", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let (outcome, turns, ending) = match framed {
            true => replay(&bytes, Framed::new(Upper, Some(1024))),
            false => replay(&bytes, Upper),
        };
        assert!(matches!(outcome, Replayed::End), "{name}: {outcome:?}");
        assert_eq!(ending, Some(Ending::Complete), "{name}");
        turns
    };
    let turns =
        [replay("tutorial", false), replay("multiprocessing", true), replay("proxied", false)];
    assert!(turns.iter().all(|turns| *turns > 10), "{turns:?}");
}

/// A call that is not the recorded one is found at its step, whatever it is.
#[test]
fn another_loop_is_found_at_its_first_other_call() {
    let bytes = recording(8, true).expect("payload is kept");
    let header = Reader::new(&bytes[..]).unwrap().header().clone();
    let words = header.get("settings").unwrap().to_owned();
    let room = words.split(' ').find(|word| word.starts_with("recv_size=")).unwrap();
    // The same length, so that the chunks stay where they are.
    let other = format!("recv_size={}", if room.ends_with('1') { "2" } else { "1" });
    let at = bytes.windows(room.len()).position(|window| window == room.as_bytes()).unwrap();
    let mut bad = bytes.clone();
    bad.splice(at..at + room.len(), other.into_bytes());
    let (outcome, ..) = replay(&bad, handler(8));
    let Replayed::Different(difference) = outcome else { panic!("{outcome:?}") };
    let text = difference.to_string();
    assert!(
        text.contains(": recorded recv(c") && text.contains("the loop called recv(c"),
        "{text}"
    );
}

/// Asks a kernel for what loops ask rarely; returns its answers.
fn answers<L: From<()>>(
    mut kernel: impl Kernel<Listener = L, AdminListener = SimAdminListener>,
) -> String {
    let (mut events, mut wanted) = (Vec::new(), vec![kernel.wants_snapshot()]);
    kernel.catch_signals(&[libc::SIGTERM]).unwrap();
    let signals = [kernel.next_signal(), kernel.next_signal()];
    let mut listener = L::from(());
    kernel.register_listener(&mut listener, Token::listener(0)).unwrap();
    kernel.register_admin_listener(&mut SimAdminListener, Token::listener(1)).unwrap();
    kernel.poll(Some(Duration::ZERO), |token, _| events.push(token)).unwrap();
    let (mut stream, _) = kernel.accept(&mut listener).unwrap();
    kernel.shed(&mut listener).unwrap();
    kernel.probe(&mut stream);
    kernel.note(|| Note::Tick(None));
    let mut random = [0; 8];
    kernel.fill_random(&mut random).unwrap();
    let (below, replayed) = (kernel.random_below(1 << 40), kernel.replayed(|_| true));
    wanted.push(kernel.wants_snapshot());
    let mut taken = false;
    kernel.snapshot(|_| {
        taken = true;
        Err("it is only asked for".to_owned())
    });
    kernel.close(stream, Close::Orderly);
    format!("{signals:?} {events:?} {random:?} {below} {replayed:?} {wanted:?} {taken}")
}

#[test]
fn a_lent_kernel_does_and_answers_the_same() {
    let [own, lent] = [false, true].map(|is_lent| {
        let mut kernel = SimKernel::new(7, Faults::none());
        kernel.signal(libc::SIGTERM);
        kernel.connect(100, 100, 100);
        kernel.connect(100, 100, 100);
        kernel.connect_admin(100, 100, 100);
        // So small a limit that the next segment is due.
        let options = RecordOptions { limit: Some(300), ..RecordOptions::default() };
        let (mut kernel, recorded) = record(kernel, options);
        let told = if is_lent {
            let told = answers(&mut kernel);
            drop(kernel);
            told
        } else {
            answers(kernel)
        };
        (told, recorded.segments())
    });
    assert_eq!(own, lent);
    let mut reader = Reader::new(&own.1[0][..]).unwrap();
    while reader.next_step().unwrap().is_some() {}
    assert_eq!(reader.step(), 13, "its recorder saw them");
    assert!(
        own.0.starts_with("[Some(15), None]") && own.0.ends_with("None [false, true] true"),
        "{own:?}"
    );
}
