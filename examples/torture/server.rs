//! The server under trial: its own process, controlled over a pipe.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Write, stdin};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::{CloseReason, Config};
use saltecho::server::{ConnId, Limits, Note, Server, Stats};

/// Serves until stdin ends. The command `stats` prints the counters; `drain` prints the final ones
/// and exits with 0 if no connection was cut off; `stop` prints them and ends.
pub(crate) fn serve(args: &[String]) {
    let option = |name: &str| {
        args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    let mut limits = option("connections").map_or_else(Limits::for_process, |connections| {
        Limits::for_connections(usize::try_from(connections).unwrap())
    });
    limits.trust_loopback = option("distrust").is_none();
    let mut config = Config::new(Keyring::demo());
    if option("no_auth_timeout").is_some() {
        config.auth_timeout = None;
    }
    for (name, timeout) in [
        ("auth_timeout", &mut config.auth_timeout),
        ("idle_timeout", &mut config.idle_timeout),
        ("send_timeout", &mut config.send_timeout),
    ] {
        *timeout = option(name).map(Duration::from_secs).or(*timeout);
    }
    if let Some(number) = option("unauthenticated") {
        limits.unauthenticated = usize::try_from(number).unwrap();
    }
    let address = args.iter().find_map(|arg| arg.strip_prefix("listen=")).unwrap_or("127.0.0.1:0");
    let server = Server::builder().listen(address).limits(limits).config(config);
    let ends = Ends::default();
    let server = match option("by_source") {
        Some(_) => {
            let heard = ends.clone();
            server.observer(move |note, _| heard.hear(note))
        }
        None => server,
    };
    let running = server.spawn().unwrap();
    println!("{}", running.addresses()[0]);
    for line in stdin().lines() {
        match line.unwrap().as_str() {
            "stats" => {
                let stats = in_one_line(&running.handle().stats().unwrap());
                println!("{stats}{}", ends.by_source());
            }
            "drain" => {
                let stats = running.drain().unwrap();
                println!("{}", in_one_line(&stats));
                std::process::exit(i32::from(stats.closed(CloseReason::DrainTimeout) > 0));
            }
            "stop" => return println!("{}", in_one_line(&running.stop().unwrap())),
            other => panic!("unknown command: {other:?}"),
        }
    }
}

/// Counts ended connections by source address.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Sources>>);

#[derive(Default)]
struct Sources {
    open: HashMap<ConnId, IpAddr>,
    ended: BTreeMap<IpAddr, u64>,
}

impl Ends {
    fn by_source(&self) -> String {
        let sources = self.0.lock().unwrap();
        sources.ended.iter().map(|(source, count)| format!(" {source}={count}")).collect()
    }

    fn hear(&self, note: &Note) {
        let sources = &mut *self.0.lock().unwrap();
        match note {
            Note::Opened(id, Some(peer)) => drop(sources.open.insert(*id, peer.ip())),
            Note::Closed(id, _) => {
                if let Some(source) = sources.open.remove(id) {
                    *sources.ended.entry(source).or_default() += 1;
                }
            }
            _ => {}
        }
    }
}

fn in_one_line(stats: &Stats) -> String {
    let mut line = format!(
        "accepted={} authenticated={} connections={} unauthenticated={} received={} sent={} \
         undelivered={} discarded={} shed={} suspects={} over_share={} pauses={} probes={} turns={}",
        stats.accepted,
        stats.authenticated,
        stats.connections,
        stats.unauthenticated,
        stats.bytes_received,
        stats.bytes_sent,
        stats.bytes_undelivered,
        stats.bytes_discarded,
        stats.shed,
        stats.refused_suspects,
        stats.refused_over_share,
        stats.accept_pauses,
        stats.probes,
        stats.turns
    );
    for (reason, count) in stats.closes() {
        line.push_str(&format!(" {reason:?}={count}"));
    }
    line
}

/// The counters of a server under trial, by name.
pub(crate) struct Counters(HashMap<String, u64>);

impl Counters {
    fn parse(line: &str) -> Self {
        let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, count)| (name.to_owned(), count.parse().unwrap())).collect())
    }

    /// The counter of this name; zero if it is missing.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Handle of a server under trial. Dropping it kills the process.
pub(crate) struct Trial {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Trial {
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("serve").args(options);
        Self::start_command(command)
    }

    /// Starts a command that executes this program as `serve`.
    pub(crate) fn start_command(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let commands = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap_or_else(|_| panic!("no address: {line:?}"));
        Self { child, commands, answers, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn counters(&mut self) -> Counters {
        self.ask("stats")
    }

    /// Drains the server; returns its final counters and its exit code.
    pub(crate) fn drain(mut self) -> (Counters, Option<i32>) {
        let counters = self.ask("drain");
        let code = self.child.wait().unwrap().code();
        (counters, code)
    }

    /// Sends a command without waiting for its answer.
    pub(crate) fn command(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
    }

    fn ask(&mut self, command: &str) -> Counters {
        self.command(command);
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        Counters::parse(&line)
    }

    /// Number of open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// CPU time used so far, user and system.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on all supported Linux systems.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Both fail if the process has ended and was waited for, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
