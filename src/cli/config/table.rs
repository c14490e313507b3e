//! The one table of settings: the flags of `saltecho serve`, each of which is a key by itself.
//!
//! A value of the file becomes the default of its flag. So clap's own precedence (the flag, then the
//! variable, then the default) is the precedence of the file too, and the flag's parser judges its
//! values.

use std::any::TypeId;
use std::error::Error as _;
use std::fmt;

use clap::builder::{Arg, ValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use super::file::{Entry, Fault, Value, line_of};

/// The flag that names the file, and so the only one that is no key.
const FILE_FLAG: &str = "config";

/// The Jaro-Winkler similarity from which a key counts as a misspelling of another.
const SIMILAR: f64 = 0.8;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Number,
    Text,
    List,
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Origin {
    Flag,
    Variable(String),
    File { name: String, line: usize },
    Default,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Setting {
    pub(in crate::cli) key: String,
    /// The value as TOML; `None` if it has none, and a default that depends on other things.
    pub(in crate::cli) value: Option<String>,
    pub(in crate::cli) origin: Origin,
    /// What stands for a value where there is none.
    pub(in crate::cli) placeholder: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => f.write_str(name),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The flags that are keys, in the order of the help.
pub(super) fn keys(serve: &Command) -> impl Iterator<Item = &Arg> {
    serve.get_arguments().filter(|arg| {
        let is_builtin = matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        );
        !is_builtin && arg.get_long().is_some_and(|long| long != FILE_FLAG)
    })
}

/// The name of a key: its flag's.
pub(super) fn name(arg: &Arg) -> &str {
    arg.get_long().expect("a key is a flag")
}

pub(super) fn kind(arg: &Arg) -> Kind {
    let numbers =
        [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => Kind::Switch,
        ArgAction::Append => Kind::List,
        _ if numbers.iter().any(|number| arg.get_value_parser().type_id() == *number) => {
            Kind::Number
        }
        _ => Kind::Text,
    }
}

/// Makes the values of the file the defaults of their flags.
///
/// # Errors
/// The first key that is unknown or given twice, or value that its flag refuses.
pub(super) fn with_defaults(mut serve: Command, entries: &[Entry]) -> Result<Command, Fault> {
    let mut given: Vec<String> = Vec::new();
    for entry in entries {
        let arg = find(&serve, entry)?;
        if given.iter().any(|key| key == name(arg)) {
            return Err(Fault::new(&entry.key_span, format!("`{}` is given twice", name(arg))));
        }
        given.push(name(arg).to_owned());
        let words = words(arg, entry)?;
        let id = arg.get_id().clone();
        serve = serve.mut_arg(id, |arg| arg.default_values(words));
    }
    Ok(serve)
}

/// Finds the flag of a key, which may have `_` in place of `-`.
fn find<'a>(serve: &'a Command, entry: &Entry) -> Result<&'a Arg, Fault> {
    let wanted = entry.key.replace('_', "-");
    if let Some(arg) = keys(serve).find(|arg| name(arg) == wanted) {
        return Ok(arg);
    }
    let fault = |message| Err(Fault::new(&entry.key_span, message));
    if wanted == FILE_FLAG {
        return fault("`config` is no key: a configuration cannot name another".to_owned());
    }
    let other_name = |arg: &&Arg| {
        arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&wanted.as_str()))
    };
    let similarity = |arg: &&Arg| strsim::jaro_winkler(&wanted, name(arg));
    let nearest = keys(serve).max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let meant =
        keys(serve).find(other_name).or(nearest.filter(|nearest| similarity(nearest) >= SIMILAR));
    match (meant, &entry.value) {
        (Some(meant), _) => {
            fault(format!("unknown key `{}`; did you mean `{}`?", entry.key, name(meant)))
        }
        (None, Value::Other("a table")) => {
            fault(format!("unknown table `{}`; there are none, only keys", entry.key))
        }
        (None, _) => {
            fault(format!("unknown key `{}`; `saltecho config init` lists all", entry.key))
        }
    }
}

/// The words that a value would be on the command line.
fn words(arg: &Arg, entry: &Entry) -> Result<Vec<String>, Fault> {
    let one = |value: &Value, expected: &str, takes: fn(&Value) -> Option<String>, span| {
        let word = takes(value).ok_or_else(|| {
            let found = value.kind();
            Fault::new(span, format!("`{}`: expected {expected}, found {found}", name(arg)))
        })?;
        match refusal(arg, &word) {
            None => Ok(word),
            Some(why) => Err(Fault::new(span, format!("`{}`: {why}", name(arg)))),
        }
    };
    let text = |value: &Value| match value {
        Value::Text(text) | Value::Number(text) => Some(text.clone()),
        Value::Switch(_) | Value::List(_) | Value::Other(_) => None,
    };
    let (value, span) = (&entry.value, &entry.span);
    Ok(match (kind(arg), value) {
        (Kind::Switch, _) => {
            let switch = |value: &Value| match value {
                Value::Switch(on) => Some(on.to_string()),
                _ => None,
            };
            vec![one(value, "true or false", switch, span)?]
        }
        (Kind::Number, _) => {
            let number = |value: &Value| match value {
                Value::Number(number) => Some(number.clone()),
                _ => None,
            };
            vec![one(value, "a number", number, span)?]
        }
        (Kind::Text, _) => vec![one(value, "a string", text, span)?],
        (Kind::List, Value::List(values)) => values
            .iter()
            .map(|(value, span)| one(value, "a string", text, span))
            .collect::<Result<_, _>>()?,
        (Kind::List, _) => vec![one(value, "an array of strings", text, span)?],
    })
}

/// Why the flag's parser refuses a word, if it does.
fn refusal(arg: &Arg, word: &str) -> Option<String> {
    let parser: ValueParser = arg.get_value_parser().clone();
    let mut alone = Arg::new("value").long("value").action(ArgAction::Append).value_parser(parser);
    if let Some(delimiter) = arg.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let command = Command::new("value").no_binary_name(true).disable_help_flag(true).arg(alone);
    let error = command.try_get_matches_from([format!("--value={word}")]).err()?;
    if let Some(source) = error.source() {
        return Some(source.to_string());
    }
    Some(match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            format!("expected one of: {}", values.join(", "))
        }
        _ => "it is empty".to_owned(),
    })
}

/// The settings in force, in the order of the flags of `serve`: what was parsed, and which of it came
/// from `entries` of the file.
pub(super) fn settings(
    serve: &Command,
    matches: &ArgMatches,
    (file, text, entries): (&str, &str, &[Entry]),
) -> Vec<Setting> {
    let setting = |arg: &Arg| {
        let id = arg.get_id().as_str();
        let key = name(arg).to_owned();
        let entry = entries.iter().find(|entry| entry.key.replace('_', "-") == key);
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => {
                let variable = arg.get_env().expect("the value comes from it");
                Origin::Variable(variable.to_string_lossy().into_owned())
            }
            _ => entry.map_or(Origin::Default, |entry| Origin::File {
                name: file.to_owned(),
                line: line_of(text, entry.key_span.start),
            }),
        };
        Setting { value: value(arg, matches), placeholder: placeholder(arg), key, origin }
    };
    keys(serve).map(setting).collect()
}

/// The value of a flag as TOML.
fn value(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let id = arg.get_id().as_str();
    if kind(arg) == Kind::Switch {
        return Some(matches.get_flag(id).to_string());
    }
    let raw = matches.get_raw(id).into_iter().flatten();
    let words: Vec<String> = raw.map(|word| word.to_string_lossy().into_owned()).collect();
    to_toml(arg, &words)
}

/// Writes words of the command line as a value; `None` if there are none.
pub(super) fn to_toml(arg: &Arg, words: &[String]) -> Option<String> {
    let quoted = |word: &String| toml::Value::String(word.clone()).to_string();
    match kind(arg) {
        Kind::List if words.is_empty() => None,
        Kind::List => {
            Some(format!("[{}]", words.iter().map(quoted).collect::<Vec<_>>().join(", ")))
        }
        Kind::Text => words.first().map(quoted),
        Kind::Number | Kind::Switch => words.first().cloned(),
    }
}

/// The name of a value, as in the help, in the notation that the value has.
pub(super) fn placeholder(arg: &Arg) -> String {
    let name = arg.get_value_names().and_then(|names| names.first());
    let name = name.map_or("VALUE", |name| name.as_str());
    match kind(arg) {
        Kind::Text => format!("{name:?}"),
        Kind::List => format!("[{name:?}]"),
        Kind::Number | Kind::Switch => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::super::super::args::{self, Cli};
    use super::super::{file, init};
    use super::*;

    fn serve() -> Command {
        Cli::command().find_subcommand("serve").expect("it is a command").clone()
    }

    /// Settings of `saltecho serve` with this file and these words.
    fn parse(text: &str, words: &[&str]) -> Vec<Setting> {
        let entries = file::parse(text).unwrap();
        let command = with_defaults(serve(), &entries).unwrap();
        let words = ["serve"].iter().chain(words);
        let matches = command.try_get_matches_from(words).unwrap();
        settings(&serve(), &matches, ("file", text, &entries))
    }

    /// A value that differs from the default and that the flag accepts, as TOML.
    fn another(arg: &Arg) -> &'static str {
        let candidates: &[&str] = match kind(arg) {
            Kind::Switch => &["true"],
            Kind::Number => &["7"],
            Kind::List => &["[\"127.0.0.9:1\"]", "[\"10.0.0.0/8\"]"],
            Kind::Text => &[
                "\"7s\"",
                "\"7\"",
                "\"7m\"",
                "\"sha256\"",
                "\"same\"",
                "\"require\"",
                "\"json\"",
                "\"plain\"",
                "\"127.0.0.1:7\"",
                "\"other\"",
            ],
        };
        let is_accepted = |value: &&&str| {
            let entries = file::parse(&format!("{} = {value}", name(arg))).unwrap();
            words(arg, &entries[0]).is_ok()
        };
        candidates
            .iter()
            .find(is_accepted)
            .unwrap_or_else(|| panic!("{} takes none: add one", name(arg)))
    }

    fn find_setting(settings: Vec<Setting>, key: &str) -> Setting {
        settings.into_iter().find(|setting| setting.key == key).expect("it is a key")
    }

    /// Walks all flags, so a new one is tested by itself.
    #[test]
    fn every_flag_is_a_key_above_its_default_and_below_the_flag() {
        let serve = serve();
        assert!(keys(&serve).count() > 20);
        for arg in keys(&serve) {
            let key = name(arg);
            let variable = format!("SALTECHO_{}", key.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(&*variable), "{key}");
            assert!(std::env::var_os(&variable).is_none(), "{variable} is set");
            let value = another(arg);
            let default = find_setting(parse("", &[]), key);
            assert_eq!(default.origin, Origin::Default);
            assert_ne!(default.value.as_deref(), Some(value), "{key}");
            for spelled in [key.to_owned(), key.replace('-', "_")] {
                let settings = parse(&format!("# a comment\n{spelled} = {value}\n"), &[]);
                let others = settings.iter().filter(|other| other.key != key);
                assert!(others.clone().all(|other| other.origin == Origin::Default), "{key}");
                let setting = find_setting(settings, key);
                assert_eq!(setting.value.as_deref(), Some(value), "{key}");
                assert_eq!(setting.origin.to_string(), "file:2", "{key}");
            }
            let word = value.trim_matches(|c| "[]\"".contains(c));
            let flag = match kind(arg) {
                Kind::Switch => format!("--{key}"),
                Kind::Number | Kind::Text | Kind::List => format!("--{key}={word}"),
            };
            let below = default.value.map(|value| format!("{key} = {value}")).unwrap_or_default();
            let setting = find_setting(parse(&below, &[&flag]), key);
            assert_eq!(setting.value.as_deref(), Some(value), "{key}");
            assert_eq!(setting.origin, Origin::Flag, "{key}");
        }
    }

    #[test]
    fn the_commented_configuration_has_every_key_at_its_default() {
        let text = init::commented(&Cli::command());
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(file::parse(&text).unwrap().is_empty(), "all of it is comments");
        let defaults = parse("", &[]);
        // What follows `#` without a space is a key; those without a default have a placeholder.
        let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
        let lines: Vec<&str> = lines.filter(|line| line.starts_with(char::is_alphabetic)).collect();
        let listed: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        let known: Vec<&str> = defaults.iter().map(|setting| setting.key.as_str()).collect();
        assert_eq!(listed, known);
        let has_default = |line: &&&str| {
            let key = line.split(' ').next();
            defaults.iter().any(|default| Some(&*default.key) == key && default.value.is_some())
        };
        let with_values = lines.iter().filter(has_default).copied().collect::<Vec<_>>();
        assert!(with_values.len() > 15, "{text}");
        for (setting, default) in parse(&with_values.join("\n"), &[]).iter().zip(&defaults) {
            assert_eq!(setting.value, default.value, "{}", setting.key);
        }
    }

    #[test]
    fn values_reach_the_arguments() {
        let text = "listen = [\"127.0.0.1:1\", \"[::1]:2\"]\nmax_connections = 1_000\n\
                    verbose = true\nmac = 'sha256'\nbacklog = 0x10\n";
        let entries = file::parse(text).unwrap();
        let cli =
            Cli::command().mut_subcommand("serve", |serve| with_defaults(serve, &entries).unwrap());
        let matches = cli.try_get_matches_from(["saltecho", "serve", "--backlog", "5"]).unwrap();
        let Cli { command } = Cli::from_arg_matches(&matches).unwrap();
        let args::Command::Serve(args) = command else { panic!("{command:?}") };
        let shown = format!("{args:?}");
        for part in [
            "listen: [127.0.0.1:1, [::1]:2]",
            "max_connections: Some(1000)",
            "verbose: true",
            "mac: Some(Sha256)",
            "backlog: 5,",
        ] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
    }

    #[test]
    fn a_refusal_names_the_key_and_what_is_expected() {
        for (text, words) in [
            ("auth_timout = 1", "unknown key `auth_timout`; did you mean `auth-timeout`?"),
            ("LISTEN = 1", "unknown key `LISTEN`"),
            ("bufsize = '1k'", "did you mean `recv-size`?"),
            ("zzz = 1", "unknown key `zzz`; `saltecho config init` lists all"),
            ("help = true", "unknown key `help`"),
            ("config = 'other'", "a configuration cannot name another"),
            ("[serve]\nlisten = []", "unknown table `serve`; there are none"),
            ("a.b = 1", "unknown table `a`"),
            ("idle_timeout = 'off'\nidle-timeout = 'off'", "`idle-timeout` is given twice"),
            ("quiet = 1", "`quiet`: expected true or false, found a number"),
            ("quiet = 'true'", "`quiet`: expected true or false, found a string"),
            ("workers = '2'", "`workers`: expected a number, found a string"),
            ("workers = 2.0", "`workers`: expected a number, found a fraction"),
            ("workers = 0", "`workers`: 0 is not in 1..=256"),
            ("workers = 99999999999999999999", "`workers`: number too large"),
            ("workers = -1", "`workers`: -1 is not in 1..=256"),
            ("auth-timeout = 5", "`auth-timeout`: expected a number with a unit, like 5s"),
            ("auth-timeout = true", "`auth-timeout`: expected a string, found a boolean"),
            ("auth-timeout = 2020-01-01", "expected a string, found a date or time"),
            ("auth-timeout = ['5s']", "expected a string, found an array"),
            ("listen = true", "`listen`: expected an array of strings, found a boolean"),
            ("listen = [[]]", "`listen`: expected a string, found an array"),
            ("listen = ['127.0.0.1:1', 'x y:z']", "`listen`: expected an IP address"),
            ("trust = '10.1.0.0/8'", "`trust`: 10.1.0.0 is an address within 10.0.0.0/8"),
            ("mac = 'sha1'", "`mac`: expected one of: md5, sha256"),
            ("key-file = ''", "`key-file`: it is empty"),
        ] {
            let entries = file::parse(text).expect(text);
            let fault = with_defaults(serve(), &entries).expect_err(text);
            assert!(fault.message.contains(words), "{text}: {}", fault.message);
            assert!(text.get(fault.span).is_some_and(|marked| !marked.is_empty()), "{text}");
        }
    }
}
