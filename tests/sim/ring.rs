//! Recordings in segments, of which each but the first begins with a snapshot of the loop: every one
//! replays by itself, call by call, and leads to the snapshot that the next one begins with.

use saltecho::server::{Replay, Replayed};
use saltecho::trace::{Ending, Reader};

use crate::world::World;
use crate::world::handler::UpperHandler;

/// The segments of a seed's world.
fn segments(seed: u64, keeps_payload: bool, limit: u64) -> Option<Vec<Vec<u8>>> {
    let (mut world, segments) = World::recorded_in_segments(seed, keeps_payload, limit)?;
    world.run();
    drop(world);
    let segments = segments.lock().unwrap().clone();
    Some(segments)
}

fn handler(seed: u64) -> UpperHandler {
    World::draw(saltecho::random::SplitMix::new(seed), false).fresh_handler()
}

/// Replays the segments up to something else than a turn; returns the turns that it took.
fn replay(segments: &[Vec<u8>], seed: u64) -> Result<(u64, Option<Ending>), String> {
    let mut reader = Reader::new(&segments[0][..]).map_err(|error| error.to_string())?;
    for next in &segments[1..] {
        assert!(reader.follow(next), "it is the next segment");
    }
    let mut replay = Replay::new(reader, handler(seed))?;
    let mut turns = 0;
    loop {
        match replay.turn() {
            Replayed::Turn => turns += 1,
            Replayed::End => return Ok((turns, replay.reader().ending().cloned())),
            Replayed::Different(difference) => return Err(difference.to_string()),
            outcome => return Err(format!("{outcome:?}")),
        }
    }
}

#[test]
fn each_segment_replays_by_itself_and_leads_to_the_next() {
    let (mut count, mut turns) = (0, 0);
    for seed in 0..150 {
        for keeps_payload in [true, false] {
            let Some(segments) = segments(seed, keeps_payload, 20_000) else { continue };
            let told = format!("seed {seed}, payload {keeps_payload}, {} segments", segments.len());
            for at in 0..segments.len() {
                let two = &segments[at..segments.len().min(at + 2)];
                let (replayed, _) =
                    replay(two, seed).unwrap_or_else(|fault| panic!("{told}, from {at}: {fault}"));
                (count, turns) = (count + 1, turns + replayed);
            }
            let (_, ending) = replay(&segments, seed).unwrap_or_else(|fault| panic!("{told}: {fault}"));
            assert_eq!(ending, Some(Ending::Complete), "{told}");
        }
    }
    assert!(count > 600 && turns > 20_000, "{count} segments, {turns} turns");
}
