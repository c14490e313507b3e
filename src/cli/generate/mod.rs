//! `saltecho generate`: files for other programs, matching this version.

mod grafana;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::keygen::Encoding;
use super::{config, keygen, output};

/// Write files for other programs: man pages, completions, units, configurations, manifests.
///
/// Each file is complete, with comments on what to change.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true)]
pub(super) struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Man pages of the program and each of its commands
    Man {
        /// Directory to write them to; it is created if necessary
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Completions for a shell, to stdout
    Completions {
        /// Name of the shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// A configuration of `saltecho serve` with all keys at their defaults, to stdout
    Config,
    /// A hardened unit, a socket unit, the user, and the configuration
    Systemd {
        /// Directory to write them to [default: all to stdout]
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// A configuration of HAProxy with a health check, to stdout
    Haproxy,
    /// Manifests for Kubernetes with a new key, and a Job for load, to stdout
    Kubernetes,
    /// A dashboard of the metrics for Grafana, to stdout
    Grafana,
    /// Alerts on the metrics for Prometheus, to stdout
    Prometheus,
}

const EXAMPLES: &str = "\
Examples:
  saltecho generate man ~/.local/share/man/man1
  saltecho generate completions bash > ~/.local/share/bash-completion/completions/saltecho
  saltecho generate config > saltecho.toml
  saltecho generate systemd
  saltecho generate haproxy > haproxy.cfg
  (umask 077; saltecho generate kubernetes > saltecho.yaml)";

/// A path where a package would install a file, and the text of the file.
type Installed = (&'static str, String);

/// The unit, its socket unit, its user, and its configuration. `cli` is the whole command line.
fn systemd(cli: &Command) -> [Installed; 4] {
    let settings = [
        ("key-file", "\"/etc/saltecho/saltecho.key\""),
        ("admin", "\"unix:/run/saltecho/admin.sock\""),
    ];
    [
        ("/usr/lib/systemd/system/saltecho.service", include_str!("saltecho.service").to_owned()),
        ("/usr/lib/systemd/system/saltecho.socket", include_str!("saltecho.socket").to_owned()),
        ("/usr/lib/sysusers.d/saltecho.conf", include_str!("sysusers.conf").to_owned()),
        ("/etc/saltecho/saltecho.toml", config::with(cli, &settings)),
    ]
}

const HAPROXY: &str = include_str!("haproxy.cfg");
const PROMETHEUS: &str = include_str!("prometheus.yml");
const KUBERNETES: &str = include_str!("kubernetes.yaml");

/// Writes the files. `cli` is the whole command line, for man pages and completions.
pub(super) fn run(args: &GenerateArgs, cli: Command) -> Result<(), Failure> {
    match &args.what {
        What::Man { directory } => man(directory, cli)?,
        What::Config => output::print(&config::commented(&cli))?,
        What::Completions { shell } => output::print(&completions(*shell, cli))?,
        What::Systemd { directory: None } => output::print(&together(&systemd(&cli)))?,
        What::Systemd { directory: Some(directory) } => write_all(directory, &systemd(&cli))?,
        What::Haproxy => output::print(HAPROXY)?,
        What::Kubernetes => output::print(&kubernetes()?)?,
        What::Prometheus => output::print(PROMETHEUS)?,
        What::Grafana => output::print(&format!("{:#}\n", grafana::dashboard()))?,
    }
    Ok(())
}

/// Removes `help COMMAND`, which would repeat every command in man pages and completions.
fn without_help_command(cli: Command) -> Command {
    cli.disable_help_subcommand(true)
        .mut_subcommand("generate", |generate| generate.disable_help_subcommand(true))
        .mut_subcommand("config", |config| config.disable_help_subcommand(true))
}

/// The manifests, with a new key.
fn kubernetes() -> Result<Zeroizing<String>> {
    let key = keygen::fresh(Encoding::Base64)?;
    let text = KUBERNETES.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    Ok(Zeroizing::new(text.replace("@KEY@", &key)))
}

/// Writes a page for each command.
fn man(directory: &Path, cli: Command) -> Result<()> {
    create(directory)?;
    let mut program = without_help_command(cli);
    // Sets the full names of the commands.
    program.build();
    let mut commands = vec![program];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().cloned());
        let man = Man::new(command);
        let mut page = Vec::new();
        man.render(&mut page).expect("a Vec takes every byte");
        let page = String::from_utf8(page).expect("a man page is text");
        // The text after the options has examples.
        let page = page.replace("\n.SH EXTRA\n", "\n.SH EXAMPLES\n");
        let path = directory.join(man.get_filename());
        fs::write(&path, page).with_context(|| cannot_write(&path))?;
    }
    Ok(())
}

fn completions(shell: Shell, cli: Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_help_command(cli), "saltecho", &mut script);
    String::from_utf8(script).expect("a script is text")
}

/// Joins all files, each after a comment with its path.
fn together(files: &[Installed]) -> String {
    let parts = files.iter().map(|(path, text)| format!("# {path}\n{text}"));
    parts.collect::<Vec<_>>().join("\n")
}

/// Writes files to their paths below `directory`, and lists them.
fn write_all(directory: &Path, files: &[Installed]) -> Result<()> {
    for (place, text) in files {
        let path = directory.join(place.trim_start_matches('/'));
        create(path.parent().expect("a place is more than a name"))?;
        fs::write(&path, text).with_context(|| cannot_write(&path))?;
        output::print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| cannot_write(directory))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
