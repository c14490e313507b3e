//! Environment variables for flags: errors name the variable that holds a wrong value, and unknown
//! variables get a warning.

use std::ffi::{OsStr, OsString};
use std::io::Write;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, Error};

use super::log::{RESET, WARNING};

const PREFIX: &str = "SALTECHO_";

/// The variable that tells a process that it is to take over: the number of the process that it takes
/// over from. It is no setting. The channel is standard input, which needs no descriptor of a known
/// number and is what posix_spawn(3) can pass without code between fork and exec.
pub(super) const PREDECESSOR: &str = "SALTECHO_HANDOVER";

/// The Jaro-Winkler similarity from which a name counts as a misspelling of another.
const SIMILAR: f64 = 0.9;

/// Warnings about variables that look like settings but are not. They are no error, because the
/// environment may be shared with other programs. `cli` is the whole command line.
pub(super) fn warnings(cli: &Command) -> Vec<String> {
    let known = known(cli);
    std::env::vars_os().filter_map(|(name, _)| warning(&name, &known)).collect()
}

/// Prints the warnings, for a command that has no log.
pub(super) fn print(warnings: &[String]) {
    for warning in warnings {
        let _ = writeln!(anstream::stderr(), "saltecho: {WARNING}warning:{RESET} {warning}");
    }
}

/// Adds to an error about a value the name of the variable that it came from, if any.
pub(super) fn name_variable(cli: Command, mut error: Error) -> Error {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(name) = variable_at_fault(cli, &error, &words, |name| std::env::var_os(name)) {
        let tip = format!("the value comes from the environment variable {name}");
        let tip = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

/// The variables of all commands.
fn known(command: &Command) -> Vec<String> {
    let arguments = command.get_subcommands().flat_map(Command::get_arguments);
    let names = arguments.filter_map(Arg::get_env);
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

fn warning(name: &OsStr, known: &[String]) -> Option<String> {
    let name = name.to_string_lossy();
    let setting = name.strip_prefix(PREFIX)?;
    let is_known = known.iter().any(|known| *known == name) || name == PREDECESSOR;
    if is_known || is_of_kubernetes(setting) {
        return None;
    }
    let similarity =
        |known: &String| strsim::jaro_winkler(setting, known.strip_prefix(PREFIX).unwrap_or(known));
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let name = name.escape_debug();
    Some(match nearest.filter(|nearest| similarity(nearest) >= SIMILAR) {
        Some(nearest) => format!("{name} is not a setting; did you mean {nearest}?"),
        None => format!("{name} is not a setting; `saltecho COMMAND --help` lists them"),
    })
}

/// Recognizes the variables that Kubernetes sets in each pod for a service named `saltecho`.
fn is_of_kubernetes(setting: &str) -> bool {
    let is_port = setting
        .strip_prefix("PORT_")
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    setting == "PORT" || setting.starts_with("SERVICE_") || is_port
}

/// Finds the variable that an error is about: it holds the wrong value, and its flag is not given.
fn variable_at_fault(
    mut cli: Command,
    error: &Error,
    words: &[OsString],
    value_of: impl Fn(&str) -> Option<OsString>,
) -> Option<String> {
    let Some(ContextValue::String(named)) = error.get(ContextKind::InvalidArg) else { return None };
    let wrong = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    cli.build();
    let mut command = &cli;
    while let Some(inner) = command
        .get_subcommands()
        .find(|command| words.iter().any(|word| word == command.get_name()))
    {
        command = inner;
    }
    let argument = command.get_arguments().find(|argument| argument.to_string() == *named)?;
    let name = argument.get_env()?.to_str()?;
    let value = value_of(name)?;
    let value = value.to_string_lossy();
    let holds = value == wrong || value.split(',').any(|part| part == wrong);
    (holds && !words.iter().any(|word| gives(word, argument))).then(|| name.to_owned())
}

/// Returns whether a word of the command line is this flag.
fn gives(word: &OsStr, argument: &Arg) -> bool {
    let word = word.to_string_lossy();
    let long = argument.get_long().is_some_and(|long| {
        word.strip_prefix("--")
            .and_then(|word| word.strip_prefix(long))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    let short = argument
        .get_short()
        .is_some_and(|short| word.strip_prefix('-').is_some_and(|rest| rest.starts_with(short)));
    long || short
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::Cli;

    /// `load` and `report` have flags without variables, which only make sense for one run.
    #[test]
    fn every_setting_has_a_variable() {
        let mut cli = Cli::command();
        cli.build();
        for name in ["serve", "connect", "keygen"] {
            let command = cli.find_subcommand(name).expect("it is a command");
            for argument in command.get_arguments() {
                let is_builtin = ["help", "version"].contains(&argument.get_id().as_str());
                let variable = argument.get_env().map(|name| name.to_string_lossy());
                let is_named = variable.is_some_and(|name| name.starts_with(PREFIX));
                assert!(is_builtin || is_named, "{argument} of {name}");
            }
        }
    }

    #[test]
    fn unknown_variables_get_a_warning() {
        let known = known(&Cli::command());
        for (name, warned) in [
            ("SALTECHO_LISTN", Some("did you mean SALTECHO_LISTEN?")),
            ("SALTECHO_KEYFILE", Some("did you mean SALTECHO_KEY_FILE?")),
            ("SALTECHO_max_connections", Some("--help")),
            ("SALTECHO_", Some("--help")),
            ("SALTECHO_LISTEN", None),
            ("SALTECHO_PORT_FILE", None),
            ("SALTECHO_SERVICE_HOST", None),
            ("SALTECHO_PORT", None),
            ("SALTECHO_PORT_9999_TCP_ADDR", None),
            ("PATH", None),
        ] {
            let warning = warning(OsStr::new(name), &known);
            assert_eq!(warning.is_some(), warned.is_some(), "{name}: {warning:?}");
            if let (Some(warning), Some(words)) = (warning, warned) {
                assert!(warning.contains(words) && warning.contains(name), "{warning}");
            }
        }
    }

    #[test]
    fn an_error_on_the_command_line_does_not_name_a_variable() {
        for words in [
            &["saltecho", "serve", "-l", "x:y"][..],
            &["saltecho", "serve", "-lx:y"],
            &["saltecho", "serve", "--listen=x:y"],
            &["saltecho", "serve", "--listen", "x:y", "-v"],
        ] {
            let error = Cli::try_parse_from(words).unwrap_err();
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let value_of = |_: &str| Some("127.0.0.1:0,x:y".into());
            let at_fault = |words: &[OsString], value_of: fn(&str) -> Option<OsString>| {
                variable_at_fault(Cli::command(), &error, words, value_of)
            };
            assert_eq!(at_fault(&words, value_of), None);
            let elsewhere: Vec<OsString> = vec!["saltecho".into(), "serve".into()];
            let name = at_fault(&elsewhere, value_of);
            assert_eq!(name.as_deref(), Some("SALTECHO_LISTEN"));
            assert_eq!(at_fault(&elsewhere, |_| None), None);
        }
    }
}
