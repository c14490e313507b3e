//! Replays the fuzz targets' corpora, and inputs drawn from fixed seeds, on any toolchain.
//!
//! `scripts/fuzz` runs the targets themselves.

mod fuzz_harness;

use std::path::Path;

use saltecho::sim::SplitMix;

const DRAWN: u64 = 1000;

#[test]
fn every_corpus_is_replayed() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz");
    for (name, target) in fuzz_harness::TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(data.join(name)).expect("each target has a corpus") {
            target(&std::fs::read(entry.expect("it is listed").path()).expect("it is a file"));
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
        println!("{name}: {count} inputs");
    }
}

#[test]
fn every_target_bears_drawn_inputs() {
    for (name, target) in fuzz_harness::TARGETS {
        for seed in 0..DRAWN {
            let mut random = SplitMix::new(seed);
            let len = random.below(if name == "whole_loop" { 1000 } else { 300 });
            let input: Vec<u8> = (0..len).map(|_| random.next_u64().to_le_bytes()[0]).collect();
            target(&input);
        }
    }
}
