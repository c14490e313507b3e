//! `saltecho ctl`: what administrators do with a running server, over its admin endpoint.

mod samples;
mod stats;
mod tables;

use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};

use self::samples::Figure;

use crate::cli::address::AdminTarget;
use crate::cli::failure::{Exit, Failure};
use crate::cli::http::{self, Answer};
use crate::cli::output::{self, Output};
use crate::cli::values::Limit;

/// Control a running server over its admin endpoint.
///
/// The server has one if it was started with --admin. Results go to stdout, and a refusal is an
/// error with exit code 1.
#[derive(Args, Debug)]
#[command(after_long_help = CTL_EXAMPLES)]
pub(super) struct CtlArgs {
    #[command(subcommand)]
    command: CtlCommand,

    /// The server's admin endpoint: unix:PATH, or a host and a port [default:
    /// unix:/run/saltecho/admin.sock if it is there, or else 127.0.0.1:9998]
    #[arg(long, value_name = "ADDR|unix:PATH", global = true)]
    #[arg(env = "SALTECHO_ADMIN", hide_env_values = true)]
    admin: Option<AdminTarget>,

    /// Time limit for connecting, and for each part of the answer (5s, 500ms, off)
    #[arg(long, value_name = "TIME", default_value = "5s", global = true)]
    timeout: Limit,
}

const CTL_EXAMPLES: &str = "\
Examples:
  saltecho ctl list --sort idle --limit 20
  saltecho ctl kill 17
  saltecho ctl stats --json | jq 'select(.name | endswith(\"_wait_seconds\")) | .p99'
  saltecho ctl upgrade --check && saltecho ctl upgrade
  saltecho ctl --admin unix:/run/saltecho/admin.sock drain
  saltecho ctl list --json | jq -r 'select(.unsent > 0) | .peer'";

#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// Print the metrics as a table: connections, refusals, bytes, and how late the loops are
    Stats {
        /// Print a JSON object per line, with the median and the 99th percentile of histograms
        #[arg(long, conflicts_with = "raw")]
        json: bool,

        /// Print them in the format of Prometheus
        #[arg(long)]
        raw: bool,
    },
    /// Print the connections, by default all in no particular order
    List(ListArgs),
    /// Close a connection at once
    Kill {
        /// The connection, as `list` and the log show it: 17, or 2:17 with several workers
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Stop accepting, finish pending answers, and end the server
    Drain,
    /// Read keys and configuration again
    Reload,
    /// Start the program again, which takes over everything, connections included; waits for the
    /// result
    ///
    /// If anything fails before the new process has everything, the old one goes on, and the exit code
    /// is 1.
    Upgrade {
        /// Only check whether the new program starts, understands its settings and would take over
        #[arg(long)]
        check: bool,
    },
    /// Change what the server logs
    Log {
        /// quiet, normal or verbose
        #[arg(value_name = "LEVEL")]
        level: String,
    },
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Only those in this state: await_digest, echoing, finishing or lingering
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// The first 100 by this: age (oldest first), idle, received, sent or unsent (most first); with -
    /// before it in reverse
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    sort: Option<String>,

    /// At most this many; a sorted list has 1,000 at most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CtlArgs) -> Result<(), Failure> {
    let admin = args.admin.clone().unwrap_or_else(AdminTarget::find);
    let ask_within = |method: &str, path: &str, limit| {
        let mut answer = http::ask(&admin, method, path, limit)?;
        if answer.status == 503 {
            // An upgrade came in between, and the next connection leads to the new process.
            answer = http::ask(&admin, method, path, limit)?;
        }
        match answer.status {
            200 | 202 => Ok(answer),
            _ => Err(refusal(answer)),
        }
    };
    let ask = |method: &str, path: &str| ask_within(method, path, args.timeout.0);
    let post = |path: &str| {
        let text = ask("POST", path)?.content.text().context("the answer ended early")?;
        Ok(output::print(&text)?)
    };
    match &args.command {
        CtlCommand::Stats { json, raw } => {
            let text = ask("GET", "/metrics")?.content.text().context("the answer ended early")?;
            let shown = match (json, raw) {
                (_, true) => text,
                (true, _) => json_lines(&samples::figures(&text))?,
                (false, false) => stats::table(&samples::figures(&text)),
            };
            Ok(output::print(&shown)?)
        }
        CtlCommand::List(list) => list.print(ask("GET", &list.path())?),
        CtlCommand::Kill { id } => post(&format!("/connections/{}/kill", escaped(id))),
        CtlCommand::Drain => post("/drain"),
        CtlCommand::Reload => post("/reload"),
        CtlCommand::Upgrade { check } => {
            let path = if *check { "/upgrade?check=true" } else { "/upgrade" };
            let patience = args.timeout.0.map(|timeout| timeout + UPGRADE);
            let answer = ask_within("POST", path, patience)?;
            Ok(output::print(&answer.content.text().context("the answer ended early")?)?)
        }
        CtlCommand::Log { level } => post(&format!("/log?level={}", escaped(level))),
    }
}

/// Time that an upgrade may take beside the time limit of an answer: the new process has 10 s to get
/// ready, and both have 10 minutes at most to hand over.
const UPGRADE: Duration = Duration::from_secs(620);

fn json_lines(figures: &[Figure]) -> Result<String, Failure> {
    let lines = figures.iter().map(|figure| {
        let line = serde_json::to_string(figure).context("cannot write JSON")?;
        Ok(line + "\n")
    });
    lines.collect()
}

/// The server's reason for not doing what was asked.
fn refusal(answer: Answer) -> Failure {
    let status = answer.status;
    let text = answer.content.text().unwrap_or_default();
    // What follows the first line is for people with a browser.
    let text = match text.lines().next() {
        None => format!("the server answered with status {status}"),
        Some(text) => text.to_owned(),
    };
    Failure::with_message(Exit::Runtime, text)
}

impl ListArgs {
    fn path(&self) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let pairs = [("state", &self.state), ("sort", &self.sort), ("limit", &limit)];
        let pairs = pairs.into_iter().filter_map(|(name, value)| {
            value.as_ref().map(|value| format!("{name}={}", escaped(value)))
        });
        let query: Vec<String> = pairs.collect();
        format!("/connections?{}", query.join("&"))
    }

    /// Prints a list as it arrives: it may be long.
    fn print(&self, answer: Answer) -> Result<(), Failure> {
        let mut output = Output::stdout()?;
        let mut write =
            |text: &str| output.write_all(text.as_bytes()).context("cannot write to stdout");
        if !self.json {
            write(tables::CONNECTIONS_HEAD)?;
        }
        for line in BufReader::new(answer.content).lines() {
            let line = line.context("the list ended early")?;
            write(&if self.json { format!("{line}\n") } else { tables::connection(&line)? })?;
        }
        Ok(())
    }
}

/// A value within the target of a request.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => {
                escaped.push(byte.into());
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
