//! Replays the corpora of the fuzz targets, and random inputs from fixed seeds, on any toolchain.
//!
//! `scripts/fuzz` runs the targets themselves.
#![cfg(feature = "load")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

mod harness;

use std::path::Path;

use saltecho::random::SplitMix;

const DRAWN: u64 = 1000;
/// The characters of flag values.
const VALUES: &[u8] = b"0123456789.:[]%+-/kKmMsunhdwy oflcaet";
/// The characters of a configuration.
const TOML: &[u8] = b"ab1_-.=[]{}'\",# \n\\t";

/// A test for each corpus.
macro_rules! corpus {
    ($($name:ident)*) => {
        mod corpus {
            $(#[test]
            fn $name() {
                super::replay(stringify!($name));
            })*

            #[test]
            fn there_is_one_for_each_target() {
                let targets = crate::harness::TARGETS.map(|(name, _)| name);
                assert_eq!([$(stringify!($name)),*], targets);
            }
        }
    };
}

corpus! {
    admin_endpoint command_line_values configuration connection_script handover_chunks http_exchange
    key_file load_log multiprocessing_stream proxy_header recording whole_loop
}

fn replay(name: &str) {
    let (_, target) = harness::TARGETS.into_iter().find(|target| target.0 == name).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(data).expect("each target has a corpus") {
        target(&std::fs::read(entry.expect("it is listed").path()).expect("it is a file"));
        count += 1;
    }
    assert!(count > 0, "{name} has no corpus");
    println!("{name}: {count} inputs");
}

#[test]
fn every_target_accepts_random_inputs() {
    for (name, target) in harness::TARGETS {
        let (longest, alphabet) = match name {
            "command_line_values" => (12, Some(VALUES)),
            "configuration" => (40, Some(TOML)),
            "whole_loop" | "admin_endpoint" => (1000, None),
            _ => (300, None),
        };
        for seed in 0..DRAWN {
            let mut random = SplitMix::new(seed);
            let len = random.below(longest);
            let mut byte = || match alphabet {
                Some(alphabet) => alphabet[random.below(alphabet.len())],
                None => random.next_u64().to_le_bytes()[0],
            };
            let input: Vec<u8> = (0..len).map(|_| byte()).collect();
            target(&input);
        }
    }
}
