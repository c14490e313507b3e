//! Recordings in segments, of which each but the first begins with a snapshot of the loop: every one
//! replays by itself, call by call, and leads to the snapshot that the next one begins with.

use saltecho::random::SplitMix;
use saltecho::trace::{Event, Reader};

use crate::world::World;
use crate::world::segments::{Recorded, replay};

/// Two segments of this length in bytes: a few dozen turns each.
const LIMIT: u64 = 10_000;

/// The segments of a seed's world, with the handshakes of its clients.
fn recorded(seed: u64, keeps_payload: bool) -> Option<(Recorded, Vec<Vec<u8>>)> {
    let (mut world, recorded) = World::recorded_in_segments(seed, keeps_payload, LIMIT)?;
    world.run();
    let digests = world.clients.iter().map(|client| client.digest.clone()).collect();
    drop(world);
    Some((recorded, digests))
}

#[test]
fn each_segment_replays_by_itself_and_leads_to_the_next() {
    let (mut segments, mut turns) = (0, 0);
    for seed in 0..150 {
        for keeps_payload in [true, false] {
            let Some((recorded, _)) = recorded(seed, keeps_payload) else { continue };
            let handler = || World::draw(SplitMix::new(seed), false).fresh_handler();
            match recorded.replay(handler) {
                Ok((count, replayed)) => {
                    (segments, turns) = (segments + count, turns + replayed);
                }
                Err(fault) => panic!("seed {seed}, payload {keeps_payload}: {fault}"),
            }
        }
    }
    assert!(segments > 450 && turns > 100_000, "{segments} segments, {turns} turns");
}

/// A file of a killed process ends anywhere, also in a snapshot.
#[test]
fn a_segment_that_is_cut_off_replays_as_far_as_it_goes() {
    let long = |seed| {
        let (recorded, digests) = recorded(seed, true)?;
        (recorded.segments().len() > 2).then_some((recorded, digests))
    };
    let (recorded, _) = (0..).find_map(long).unwrap();
    let segments = recorded.segments();
    let handler = || World::draw(SplitMix::new(0), false).fresh_handler();
    let last = &segments[1];
    for len in (0..last.len()).step_by(37) {
        match replay(&[last[..len].to_vec()], handler()) {
            Ok(_) => {}
            Err(fault) => assert!(
                fault.contains("cut off in the snapshot") || fault.contains("not a recording"),
                "{len} bytes: {fault}"
            ),
        }
    }
}

/// No byte of a digest is in a sanitized segment, and no address of a client.
#[test]
fn a_snapshot_has_nothing_of_the_clients() {
    let (mut snapshots, mut digests) = (0, 0);
    for seed in 0..150 {
        let Some((recorded, secrets)) = recorded(seed, false) else { continue };
        for segment in recorded.segments() {
            for secret in secrets.iter().filter(|secret| secret.len() >= 8) {
                digests += 1;
                assert!(!segment.windows(8).any(|window| window == &secret[..8]), "seed {seed}");
            }
            for address in [&[192, 0, 2][..], &[0x20, 0x01, 0x0d, 0xb8], b"192.0.2."] {
                let found = segment.windows(address.len()).any(|window| window == address);
                assert!(!found, "seed {seed}: {address:?} is in the file");
            }
            let mut reader = Reader::new(&segment[..]).unwrap();
            let first = reader.next_step().unwrap();
            snapshots +=
                usize::from(first.is_some_and(|step| matches!(step.event, Event::Snapshot { .. })));
        }
    }
    assert!(snapshots > 100 && digests > 200, "{snapshots} snapshots, {digests} digests");
}
