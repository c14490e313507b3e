//! The commented configuration, made from the flags of `saltecho serve`.

use clap::Command;
use clap::builder::PossibleValue;

use super::table::{Kind, keys, kind, name, placeholder, to_toml};

/// The longest line of a comment.
const WIDTH: usize = 100;

const HEADER: &str = "\
# Configuration of `saltecho serve`. `saltecho serve --config FILE` reads it, `saltecho config check
# FILE` checks it, and SIGHUP makes a running server read it again.
#
# Each key is a flag of `saltecho serve`. The flag overrides its environment variable (SALTECHO_ and
# the key in upper case, with _ in place of -), which overrides this file. The lines that begin with
# # and a key have the defaults: remove the # to change one.
";

/// Writes all keys with their descriptions and defaults. `cli` is the whole command line.
pub(in crate::cli) fn commented(cli: &Command) -> String {
    with(cli, &[])
}

/// The same with these keys at other values, which are written in TOML.
pub(in crate::cli) fn with(cli: &Command, values: &[(&str, &str)]) -> String {
    let serve = cli.find_subcommand("serve").expect("it is a command");
    let mut text = HEADER.to_owned();
    for arg in keys(serve) {
        text.push('\n');
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        for line in wrapped(&help) {
            text.push_str(&format!("# {line}\n"));
        }
        let possible = arg.get_possible_values();
        let possible: Vec<&str> = possible.iter().map(PossibleValue::get_name).collect();
        if kind(arg) == Kind::Text && !possible.is_empty() {
            text.push_str(&format!("# One of: {}\n", possible.join(", ")));
        }
        let words = arg.get_default_values().iter();
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        let value = match kind(arg) {
            Kind::Switch => "false".to_owned(),
            _ => to_toml(arg, &words).unwrap_or_else(|| placeholder(arg)),
        };
        let name = name(arg);
        text.push_str(&match values.iter().find(|(key, _)| *key == name) {
            Some((key, value)) => format!("{key} = {value}\n"),
            None => format!("#{name} = {value}\n"),
        });
    }
    text
}

/// Breaks a text into lines of a comment.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() + 2 <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
