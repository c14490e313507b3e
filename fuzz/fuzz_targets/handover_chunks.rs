#![no_main]

#[path = "../../tests/fuzz_corpus/harness/mod.rs"]
mod fuzz_harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_harness::handover_chunks(data));
