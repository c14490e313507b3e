//! `saltecho config`: checks, shows and writes configurations.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};

use super::config::{Effective, commented};
use super::failure::Failure;
use super::serve::ServeArgs;
use super::{output, serve};

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

impl ConfigArgs {
    /// The flags of a server, for the commands that take them.
    pub(super) fn serve_args(&mut self) -> Option<&mut ServeArgs> {
        match &mut self.what {
            What::Check(settings) | What::Show { settings, .. } => Some(&mut settings.serve.0),
            What::Init => None,
        }
    }
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
