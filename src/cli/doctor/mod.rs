//! `saltecho doctor`: the number of connections that this machine can hold, and the settings for more.

mod parts;

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::machine::Machine;
use super::output;
use parts::{Advice, Part, advice, parts};

/// Check how many connections this machine can hold, and what to change for more.
///
/// Reads the limits of the kernel and of this process, and changes none. Run it in the same
/// environment as the server: a service, a container and a shell each have their own limits.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// Required number of connections; exit code 5 if they do not fit
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "SALTECHO_DOCTOR_CONNECTIONS", hide_env_values = true)]
    connections: Option<u32>,

    /// Print the findings as JSON
    #[arg(long, env = "SALTECHO_DOCTOR_JSON", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  saltecho doctor
  saltecho doctor --connections 100000
  systemd-run --pipe --property=LimitNOFILE=200000 saltecho doctor --connections 100000
  saltecho doctor --json | jq .connections";

/// The findings; as JSON in the format of schemas/doctor.schema.json.
#[derive(Debug, Serialize)]
struct Findings {
    /// Number of connections that fit.
    connections: u64,
    /// The part that allows the fewest.
    limited_by: &'static str,
    /// Required number of connections.
    wanted: Option<u64>,
    /// True if the wanted connections fit; none if none were named.
    fits: Option<bool>,
    parts: Vec<Part>,
    advice: Vec<Advice>,
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let findings = Findings::new(&Machine::this(), args.connections.map(u64::from));
    let text = match args.json {
        true => serde_json::to_string_pretty(&findings).expect("all keys are strings") + "\n",
        false => findings.to_text(),
    };
    output::print(&text)?;
    findings.check()
}

impl Findings {
    fn new(machine: &Machine, wanted: Option<u64>) -> Self {
        let parts = parts(machine, wanted);
        let least = parts.iter().min_by_key(|part| part.connections);
        let least = least.expect("every process has a limit on descriptors");
        let (connections, limited_by) = (least.connections, least.name);
        Self {
            connections,
            limited_by,
            wanted,
            fits: wanted.map(|wanted| wanted <= connections),
            parts,
            advice: advice(machine, wanted),
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "This machine can hold {} connections, limited by {}.\n\n",
            self.connections, self.limited_by
        );
        let mut line = |args: std::fmt::Arguments<'_>| {
            text.write_fmt(args).expect("a String takes every text");
            text.push('\n');
        };
        line(format_args!("{:<20} {:>20}   found", "part", "connections"));
        for Part { name, found, connections, .. } in &self.parts {
            line(format_args!("{name:<20} {connections:>20}   {found}"));
        }
        if let Some(wanted) = self.wanted.filter(|_| self.fits == Some(false)) {
            line(format_args!("\nFor {wanted} connections, change:"));
            for part in &self.parts {
                if let Some(remedy) = &part.remedy {
                    line(format_args!("- {}: {remedy}", part.name));
                }
            }
        }
        line(format_args!("\nAlso note:"));
        for Advice { name, found, advice } in &self.advice {
            line(format_args!("- {name}: {found}: {advice}"));
        }
        text
    }

    fn check(&self) -> Result<(), Failure> {
        let Some(wanted) = self.wanted.filter(|_| self.fits == Some(false)) else { return Ok(()) };
        let short: Vec<&str> =
            self.parts.iter().filter(|part| part.remedy.is_some()).map(|part| part.name).collect();
        let text = format!("{wanted} connections do not fit: {}", short.join(", "));
        Err(Failure::with_message(Exit::Assertion, text))
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Shared;
    use super::*;

    fn machine() -> Machine {
        Machine {
            descriptors: (1024, 20_000),
            nr_open: Some(1_048_576),
            open_files: Some(Shared { limit: 500_000, used: 2_000 }),
            epoll_watches: Some(400_000),
            memory: Some(1 << 30),
            tracked: Some(Shared { limit: 262_144, used: 144 }),
            tcp_memory: Some(100 << 20),
            somaxconn: Some(128),
            netdev_backlog: Some(1000),
            ports: Some((32_768, 60_999)),
            tw_reuse: None,
        }
    }

    #[test]
    fn the_part_that_allows_the_fewest_is_the_limit() {
        let findings = Findings::new(&machine(), None);
        assert_eq!((findings.connections, findings.limited_by), (19_936, "descriptors"));
        assert!(findings.check().is_ok());
        let roomy = Machine { descriptors: (1 << 30, 1 << 30), ..machine() };
        let findings = Findings::new(&roomy, None);
        assert_eq!((findings.connections, findings.limited_by), (262_000, "connection tracking"));
        let untracked = Machine { tracked: None, ..roomy };
        let findings = Findings::new(&untracked, None);
        assert_eq!((findings.connections, findings.limited_by), (280_790, "memory"));
    }

    #[test]
    fn a_number_fits_up_to_the_limit_and_not_beyond() {
        for (wanted, fits) in [(1, true), (19_936, true), (19_937, false)] {
            let findings = Findings::new(&machine(), Some(wanted));
            assert_eq!((findings.fits, findings.check().is_ok()), (Some(fits), fits));
            assert_eq!(findings.parts.iter().any(|part| part.remedy.is_some()), !fits);
            assert_eq!(findings.to_text().contains("change:"), !fits);
        }
    }

    #[test]
    fn each_remedy_is_the_exact_setting() {
        let findings = Findings::new(&machine(), Some(2_000_000));
        let text = findings.to_text();
        for setting in [
            "fs.nr_open=2000064, then LimitNOFILE=2000064",
            "ulimit -n 2000064",
            "--ulimit nofile=2000064",
            "fs.file-max=2002064",
            "fs.epoll.max_user_watches=2000064",
            "memory: 6270 MiB more",
            "net.netfilter.nf_conntrack_max=2000144",
            "plan 142 source addresses",
            "net.core.somaxconn=4096",
            "25600 connections can have data waiting",
            "slow beyond 14116",
        ] {
            assert!(text.contains(setting), "no {setting:?} in {text}");
        }
        // Following all of them is enough: no setting needs to be higher after the others.
        let followed = Machine {
            descriptors: (2_000_064, 2_000_064),
            open_files: Some(Shared { limit: 2_002_064, used: 2_000 }),
            epoll_watches: Some(2_000_064),
            memory: Some((6_270 << 20) + (1 << 30)),
            tracked: Some(Shared { limit: 2_000_144, used: 144 }),
            ..machine()
        };
        let findings = Findings::new(&followed, Some(2_000_000));
        assert_eq!(findings.fits, Some(true), "{findings:?}");
    }

    #[test]
    fn unlimited_and_missing_limits_are_accepted() {
        let endless = Machine {
            descriptors: (u64::MAX, u64::MAX),
            open_files: Some(Shared { limit: u64::MAX, used: 1 }),
            memory: Some(u64::MAX),
            ..Machine::default()
        };
        let findings = Findings::new(&endless, Some(u64::from(u32::MAX)));
        assert_eq!(findings.fits, Some(true));
        assert!(findings.to_text().contains("hard limit unlimited"));
        let poor = Machine { descriptors: (8, 8), ..Machine::default() };
        assert_eq!(Findings::new(&poor, Some(7)).fits, Some(false));
    }
}
