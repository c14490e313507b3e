//! The configuration of `saltecho serve`: a TOML file below flags and environment variables, and the
//! commands that check, show and write one.

mod file;
mod init;
mod table;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Subcommand};

use self::file::Entry;
use super::args::{Cli, Command};
use super::failure::{Exit, Failure};
use super::serve::ServeArgs;
use super::{environment, output, serve};

pub(super) use file::FileError;
pub(super) use init::{commented, with};
pub(super) use table::Setting;

/// Check, show or write a configuration of `saltecho serve`.
///
/// A configuration is a TOML file whose keys are the long flags of `saltecho serve`. A flag overrides
/// its environment variable, which overrides the file, which overrides the default.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    pub(super) what: What,
}

#[derive(Debug, Subcommand)]
pub(super) enum What {
    /// Make every check that `saltecho serve` makes before it opens a socket; takes its flags too
    ///
    /// The exit code is 2 if a check fails.
    Check(SettingsArgs),
    /// Print all settings in force as a configuration; takes the flags of `saltecho serve` too
    Show {
        #[command(flatten)]
        settings: SettingsArgs,

        /// Name where each setting comes from: a flag, a variable, a line of the file, or the default
        #[arg(long)]
        origin: bool,
    },
    /// Print a commented configuration with all keys at their defaults
    Init,
}

#[derive(Args, Debug)]
pub(super) struct SettingsArgs {
    /// The configuration [default: that of --config]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    serve: Hidden<ServeArgs>,
}

/// Flags that a command takes without repeating them in its own help.
#[derive(Debug)]
struct Hidden<T>(Box<T>);

impl<T: Args> Args for Hidden<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flags = T::augment_args(clap::Command::new("flags"));
        command.args(flags.get_arguments().map(|arg| arg.clone().hide(true)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<T: FromArgMatches> FromArgMatches for Hidden<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(matches).map(|flags| Self(Box::new(flags)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

const EXAMPLES: &str = "\
Examples:
  saltecho config init > saltecho.toml
  saltecho config check saltecho.toml
  saltecho config show --origin saltecho.toml
  saltecho config show saltecho.toml --auth-timeout 3s";

/// Why a command line cannot be carried out; help and the version are of the first kind.
pub(super) enum Refusal {
    CommandLine(clap::Error),
    Configuration(Failure),
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Self {
        Self::CommandLine(environment::name_variable(error))
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

/// Parses the command line with the environment and the configuration.
pub(super) fn parse() -> Result<Cli, Refusal> {
    parse_words(&std::env::args_os().collect::<Vec<_>>())
}

/// Parses the same command line again: a server's settings, with the configuration as it is now.
pub(super) fn parse_again() -> Result<ServeArgs, Failure> {
    match parse() {
        Ok(Cli { command: Command::Serve(args) }) => Ok(args),
        Ok(_) => unreachable!("only a server parses its command line again"),
        Err(Refusal::Configuration(failure)) => Err(failure),
        Err(Refusal::CommandLine(error)) => Err(Failure::new(Exit::Usage, error)),
    }
}

fn parse_words(words: &[OsString]) -> Result<Cli, Refusal> {
    let matches = Cli::command().try_get_matches_from(words)?;
    let Some(path) = COMMANDS.iter().find(|path| find(&matches, path).is_some()) else {
        return Ok(from_matches(&matches)?);
    };
    let server = find(&matches, path).expect("it was found");
    let given = |id| server.try_get_one::<PathBuf>(id).ok().flatten().cloned();
    let Some(file) = given("file").or_else(|| given("config")) else {
        return finish(&matches, path, None, ("", "", &[]));
    };
    let usage = |error| Refusal::Configuration(Failure::new(Exit::Usage, error));
    let text = read(&file).map_err(usage)?;
    let name = file.display().to_string();
    let located = |fault: file::Fault| usage(fault.within(&name, &text).into());
    let entries = file::parse(&text).map_err(located)?;
    let mut result = Ok(());
    let command = mut_command(Cli::command(), path, |command| {
        table::with_defaults(command.clone(), &entries).unwrap_or_else(|fault| {
            result = Err(fault);
            command
        })
    });
    result.map_err(located)?;
    let matches = command.try_get_matches_from(words)?;
    finish(&matches, path, Some(file), (&name, &text, &entries))
}

/// Makes the command line from what was parsed.
fn finish(
    matches: &ArgMatches,
    path: &[&str],
    file: Option<PathBuf>,
    source: (&str, &str, &[Entry]),
) -> Result<Cli, Refusal> {
    let mut cli = from_matches(matches)?;
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("it is a command");
    let found = find(matches, path).expect("it was found in the command line");
    let settings = table::settings(serve, found, source);
    if let Some(args) = serve_args(&mut cli) {
        args.effective = Effective { file, settings };
    }
    Ok(cli)
}

fn from_matches(matches: &ArgMatches) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(matches).map_err(|error| error.format(&mut Cli::command()))
}

fn serve_args(cli: &mut Cli) -> Option<&mut ServeArgs> {
    match &mut cli.command {
        Command::Serve(args) => Some(args),
        Command::Config(ConfigArgs {
            what: What::Check(settings) | What::Show { settings, .. },
        }) => Some(&mut settings.serve.0),
        _ => None,
    }
}

/// The command at this path, if it was given.
fn find<'a>(matches: &'a ArgMatches, path: &[&str]) -> Option<&'a ArgMatches> {
    path.iter().try_fold(matches, |matches, name| matches.subcommand_matches(name))
}

/// Changes the command at this path.
fn mut_command(
    command: clap::Command,
    path: &[&str],
    change: impl FnOnce(clap::Command) -> clap::Command,
) -> clap::Command {
    match path {
        [] => change(command),
        [name, rest @ ..] => {
            // Boxed, because each level would be another type.
            let change: Box<dyn FnOnce(clap::Command) -> clap::Command> = Box::new(change);
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

/// Carries out a command. `cli` is the whole command line.
pub(super) fn run(args: &ConfigArgs, cli: &clap::Command) -> Result<(), Failure> {
    match &args.what {
        What::Check(settings) => {
            let effective = &settings.serve.0.effective;
            let what = effective.file.as_deref().map(Path::display);
            let what = what.map_or_else(|| "the settings".to_owned(), |file| file.to_string());
            let summary = serve::check(&settings.serve.0)?;
            output::print(&format!("{what}: valid: {summary}\n"))?;
        }
        What::Show { settings, origin } => {
            output::print(&shown(&settings.serve.0.effective, *origin))?;
        }
        What::Init => output::print(&commented(cli))?,
    }
    Ok(())
}

/// The column from which on origins are shown beside values that are not longer.
const ORIGINS: usize = 44;

fn shown(effective: &Effective, with_origins: bool) -> String {
    let lines = effective.settings.iter().map(|setting| {
        let line = match &setting.value {
            Some(value) => format!("{} = {value}", setting.key),
            None => format!("#{} = {}", setting.key, setting.placeholder),
        };
        match with_origins {
            true => format!("{line:<ORIGINS$}  # {}\n", setting.origin),
            false => line + "\n",
        }
    });
    lines.collect()
}
