//! What the fuzz targets run, so that an ordinary test can run it too. Each function panics if
//! something is wrong with what it was given, and with nothing else.
#![allow(dead_code)] // Each target uses one of them.
#![allow(unreachable_pub)] // Public towards the target that includes it.

mod command_line;
mod connection_model;
#[path = "../sim_world/mod.rs"]
mod sim_world;
mod wire_formats;

use saltecho::auth::{Key, KeyFileError, parse_key_file};
use saltecho::sim::SplitMix;
use sim_world::World;

pub use command_line::command_line_values;
pub use connection_model::connection_script;
pub use wire_formats::{http_exchange, proxy_header};

/// What a fuzz target does with an input.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("command_line_values", command_line_values),
    ("connection_script", connection_script),
    ("http_exchange", http_exchange),
    ("key_file", key_file),
    ("proxy_header", proxy_header),
    ("whole_loop", whole_loop),
];

/// Reads the input as a key file, and holds the result against what the format promises.
pub fn key_file(text: &[u8]) {
    let (strict, lenient) = (parse_key_file(text, false), parse_key_file(text, true));
    let used = |line: &&[u8]| !line.trim_ascii().is_empty() && !line.trim_ascii().starts_with(b"#");
    let lines = text.split(|byte| *byte == b'\n').filter(used).count();
    match &lenient {
        Ok(keys) => {
            assert_eq!(keys.len(), lines, "one key a line");
            assert!(keys.iter().all(|key| !key.as_bytes().is_empty()));
            // Whatever was read can be written so that it is read again.
            let written: Vec<String> = keys.iter().map(in_hexadecimal).collect();
            let again = parse_key_file(written.join("\n").as_bytes(), true).expect("it is right");
            let bytes =
                |keys: &[Key]| keys.iter().map(|key| key.as_bytes().to_vec()).collect::<Vec<_>>();
            assert_eq!(bytes(&again), bytes(keys));
        }
        Err(KeyFileError::Empty) => assert_eq!(lines, 0),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match (&strict, &lenient) {
        (Ok(keys), Ok(_)) => assert!(keys.iter().all(|key| !key.is_weak())),
        (Err(KeyFileError::Weak { len, .. }), _) => assert!(*len < Key::MIN_LEN),
        (strict, lenient) => assert_eq!(strict.as_ref().err(), lenient.as_ref().err()),
    }
}

fn in_hexadecimal(key: &Key) -> String {
    let digits: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("hex:{digits}")
}

/// A simulated world in which the input makes the choices: one half of it the world's and the
/// clients', the other the kernel's.
pub fn whole_loop(choices: &[u8]) {
    let (world, kernel) = choices.split_at(choices.len() / 2);
    World::of_choices(SplitMix::from_tape(world), SplitMix::from_tape(kernel)).run();
}
