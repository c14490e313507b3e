//! The configuration of `saltecho serve`: a TOML file below flags and environment variables.

mod file;
mod init;
mod table;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgMatches, Command};

use super::environment;
use super::failure::{Exit, Failure};

pub(super) use init::{commented, with};
pub(super) use table::Setting;

/// Why a command line cannot be carried out; help and the version are of the first kind.
pub(super) enum Refusal {
    CommandLine(clap::Error),
    Configuration(Failure),
}

impl Refusal {
    /// The refusal as a failure, where no help was asked for.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::CommandLine(error) => Failure::new(Exit::Usage, error),
            Self::Configuration(failure) => failure,
        }
    }
}

/// The settings of a server, and where they come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Effective {
    /// The configuration, if there is one.
    pub(super) file: Option<PathBuf>,
    /// All settings, in the order of the help.
    pub(super) settings: Vec<Setting>,
}

/// The commands that take the flags of a server.
const COMMANDS: [&[&str]; 3] = [&["serve"], &["config", "check"], &["config", "show"]];

/// Parses a command line with the environment and the configuration that it names. A command that
/// serves or checks has settings too.
///
/// # Errors
/// If the command line, the environment or the configuration is wrong, or it asks for help.
pub(super) fn parse(
    cli: &Command,
    words: &[OsString],
) -> Result<(ArgMatches, Option<Effective>), Refusal> {
    let refused = |error| Refusal::CommandLine(environment::name_variable(cli.clone(), error));
    let matches = cli.clone().try_get_matches_from(words).map_err(refused)?;
    let Some(path) = COMMANDS.iter().find(|path| find(&matches, path).is_some()) else {
        return Ok((matches, None));
    };
    let server = find(&matches, path).expect("it was found");
    let given = |id| server.try_get_one::<PathBuf>(id).ok().flatten().cloned();
    let serve = cli.find_subcommand("serve").expect("it is a command");
    let settings = |matches, source| {
        table::settings(serve, find(matches, path).expect("it was found"), source)
    };
    let Some(file) = given("file").or_else(|| given("config")) else {
        let settings = settings(&matches, ("", "", &[]));
        return Ok((matches, Some(Effective { file: None, settings })));
    };
    let text =
        read(&file).map_err(|error| Refusal::Configuration(Failure::new(Exit::Usage, error)))?;
    let name = file.display().to_string();
    let located = |fault: file::Fault| {
        let error = fault.within(&name, &text);
        let excerpt = error.excerpt().to_owned();
        Refusal::Configuration(Failure::new(Exit::Usage, error).with_excerpt(excerpt))
    };
    let entries = file::parse(&text).map_err(located)?;
    let mut result = Ok(());
    let command = mut_command(cli.clone(), path, |command| {
        table::with_defaults(command.clone(), &entries).unwrap_or_else(|fault| {
            result = Err(fault);
            command
        })
    });
    result.map_err(located)?;
    let matches = command.try_get_matches_from(words).map_err(refused)?;
    let settings = settings(&matches, (&name, &text, &entries));
    Ok((matches, Some(Effective { file: Some(file), settings })))
}

/// The command at this path, if it was given.
fn find<'a>(matches: &'a ArgMatches, path: &[&str]) -> Option<&'a ArgMatches> {
    path.iter().try_fold(matches, |matches, name| matches.subcommand_matches(name))
}

/// Changes the command at this path.
fn mut_command(
    command: Command,
    path: &[&str],
    change: impl FnOnce(Command) -> Command,
) -> Command {
    match path {
        [] => change(command),
        [name, rest @ ..] => {
            // Boxed, because each level would be another type.
            let change: Box<dyn FnOnce(Command) -> Command> = Box::new(change);
            command.mut_subcommand(name, |inner| mut_command(inner, rest, change))
        }
    }
}

/// Maximum size of a configuration. One with all keys and their comments takes a hundredth of it.
const MAX_LEN: u64 = 1 << 20;

/// Reads a configuration, which is a regular file: it is read again by a reload.
fn read(path: &Path) -> Result<String> {
    read_text(path).with_context(|| format!("configuration {}", path.display()))
}

fn read_text(path: &Path) -> Result<String> {
    // Without O_NONBLOCK, opening a FIFO would wait for its writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("no such file; `saltecho config init > {}` creates one", path.display())
        }
        result => result.context("cannot open it")?,
    };
    let kind = file.metadata().context("cannot stat it")?.file_type();
    ensure!(kind.is_file(), "it is not a regular file");
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).context("cannot read it")?;
    ensure!(
        bytes.len() as u64 <= MAX_LEN,
        "it is larger than 1 MiB, too large for a configuration"
    );
    String::from_utf8(bytes).map_err(|error| {
        let (valid, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        anyhow::anyhow!("line {line} is not UTF-8 text")
    })
}
