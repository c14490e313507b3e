//! `saltecho load`: from flags to a running load and its report.

mod args;
pub(super) mod check;
mod live;
mod outcome;
mod preflight;
mod process;
mod sweep;
#[cfg(feature = "tui")]
mod tui;
mod values;
mod watch;

use std::io::{self, BufWriter};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result};
use saltecho::client::{Client, ClientError, Stage};
use saltecho::load::report::{
    Collector, EventLog, Generator, HistogramLog, Machine, PlanInfo, ProgramInfo,
};
use saltecho::load::{Interval, Load, Pace, Plan};
use saltecho::reactor::MioKernel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

pub(super) use args::LoadArgs;
pub(super) use live::{ERASE, is_dumb};
use live::{Lines, Live};
use preflight::{MachineLimits, check_sources, check_tui};
use process::{CpuWait, ServerUsage};
pub(super) use sweep::check_sweep;
use watch::Watch;

use super::environment;
use super::failure::{Exit, Failure};
use super::keyfile::public_name;
use super::output::{Output, Outputs};
use super::reply::Reply;
use super::signals::not_ignored;

/// Initial capacity for the events of one poll.
const EVENTS: usize = 1024;

pub(super) fn run(args: &LoadArgs) -> Result<(), Failure> {
    if args.tui
        && let Some(objection) = check_tui(args.quiet)
    {
        return Err(Failure::with_message(Exit::Usage, objection));
    }
    if let Some(objection) = args.find_contradiction() {
        return Err(Failure::with_message(Exit::Usage, objection));
    }
    let targets = args.targets()?;
    let mut plan = args.plan(targets[0])?;
    let limits = MachineLimits::examine(plan.target.ip());
    if let Some(objection) = check_sources(&plan).or_else(|| limits.check(&plan)) {
        return Err(Failure::with_message(Exit::Usage, objection));
    }
    environment::print(&Vec::from_iter(limits.advise(&plan)));
    // Until the load starts, signals keep their default action, also while this waits for the
    // reader of a FIFO or for --start-at.
    let outputs = args.outputs().map_err(|error| Failure::new(Exit::Usage, error))?;
    if let Some(rates) = args.sweep {
        wait_for_start(args)?;
        plan.target = first_answering(&targets, &plan);
        return sweep::run(args, rates, &plan, outputs);
    }
    let [events, hlog, html] = outputs.named;
    let mut server_usage = args.pid.map(ServerUsage::start).transpose().context("--pid")?;
    wait_for_start(args)?;
    plan.target = first_answering(&targets, &plan);
    let mut collector = args.collector(&plan, events, hlog)?;
    let kernel = MioKernel::new(EVENTS).context("cannot set up the event loop")?;
    let load = Load::new(kernel, plan.clone());
    let load = load.map_err(|error| Failure::new(Exit::Usage, error))?;
    let stopper = load.stopper();
    stop_on_signal(move || stopper.stop(), args.tui)?;

    // Reporting is slow, so another thread does it; the load loop must not block.
    let (intervals, queue) = channel();
    let live = args.live(&plan).context("cannot set up the terminal for --tui")?;
    let reporter = thread::Builder::new().name("report".to_owned());
    let reporter = reporter.spawn(move || {
        report_intervals(&queue, &mut collector, live);
        collector
    });
    let reporter = reporter.context("cannot start a thread for the report")?;
    let watch = args.admin.as_ref().map(Watch::start).transpose()?;
    let mut cpu_wait = CpuWait::start();
    let outcome = load.run(|interval| {
        if let Some(usage) = &mut server_usage {
            usage.update(interval.phase);
        }
        cpu_wait.update(interval.phase);
        // The thread ends when the load does, not earlier, so it receives this.
        let _ = intervals.send(interval);
    });
    drop(intervals);
    // The thread has restored the terminal, so anything may be printed from here on.
    let collector = reporter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let outcome = outcome.context("the event loop failed")?;
    let (mut report, failures) = collector.finish(outcome, cpu_wait.finish());
    report.server = server_usage.map(ServerUsage::finish);
    report.upgrades = watch.map(Watch::finish).unwrap_or_default();
    outcome::report(args, &report, failures, outputs.report, html)
}

impl LoadArgs {
    fn plan(&self, target: SocketAddr) -> Result<Plan, Failure> {
        let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
        let protocol = self.protocol.get();
        let keys = self.keys.check(protocol).and_then(|()| self.keys.load());
        let key = keys.map_err(usage)?.swap_remove(0);
        let active = match self.active {
            None => self.connections,
            Some(active) => active
                .among(self.connections)
                .map_err(|text| Failure::with_message(Exit::Usage, text))?,
        };
        let mut plan = Plan::new(target, key, self.keys.mac(protocol));
        plan.protocol = protocol;
        let pace = match self.rate {
            _ if self.closed => Pace::Closed,
            // What the machine allows is checked for the highest.
            _ if self.sweep.is_some() => self.sweep.map_or(plan.pace, |rates| Pace::Open(rates.1)),
            Some(rate) => Pace::Open(rate.0),
            None => plan.pace,
        };
        let sources = self.source.iter().flat_map(|sources| &sources.0);
        plan.sources = sources.map(|source| in_zone_of(target, *source)).collect();
        plan.mode = self.mode.into();
        plan.pace = pace;
        plan.connections = self.connections as usize;
        plan.active = active as usize;
        plan.in_flight = self.in_flight.map_or(plan.in_flight, |number| number as usize);
        plan.size = self.size.0.clone();
        plan.upper = matches!(self.reply, Reply::Upper);
        plan.ramp = self.ramp.unwrap_or_default();
        plan.duration = self.duration;
        plan.timeout = self.timeout.0;
        plan.think = self.think.unwrap_or_default();
        plan.seed = self.seed;
        plan.spin = self.spin.0;
        Ok(plan)
    }

    /// The addresses of the server, at least one: those of the sources' family if there are any.
    fn targets(&self) -> Result<Vec<SocketAddr>, Failure> {
        let address = &self.address;
        let all = (address.host.as_str(), address.port).to_socket_addrs();
        let all = all.with_context(|| format!("cannot resolve {address}"));
        let all: Vec<_> = all.map_err(|error| Failure::new(Exit::Unreachable, error))?.collect();
        let source = self.source.as_ref().and_then(|sources| sources.0.first());
        let is_wanted =
            |target: &&SocketAddr| source.is_none_or(|source| source.is_ipv4() == target.is_ipv4());
        let wanted: Vec<_> = all.iter().filter(is_wanted).copied().collect();
        match if wanted.is_empty() { all } else { wanted } {
            none if none.is_empty() => {
                Err(Failure::with_message(Exit::Unreachable, format!("{address} has no address")))
            }
            targets => Ok(targets),
        }
    }

    /// The live view, unless it is switched off.
    fn live(&self, plan: &Plan) -> io::Result<Option<Box<dyn Live>>> {
        #[cfg(feature = "tui")]
        if self.tui {
            return Ok(Some(Box::new(tui::Screen::new(plan)?)));
        }
        if self.quiet {
            return Ok(None);
        }
        Ok(Lines::new(plan.mode).map(|lines| Box::new(lines) as _))
    }

    /// Opens the outputs.
    fn outputs(&self) -> Result<Outputs<3>> {
        let flags = [
            ("--events", self.events.as_ref()),
            ("--hlog", self.hlog.as_ref()),
            ("--html", self.html.as_ref()),
        ];
        let key: Vec<&Path> = self.keys.key_file.iter().map(PathBuf::as_path).collect();
        Outputs::open(flags, &key, self.json)
    }

    /// The collector of the run, with the log files that the flags name.
    fn collector(
        &self,
        plan: &Plan,
        events: Option<Output>,
        hlog: Option<Output>,
    ) -> Result<Collector> {
        let generator = generator(plan);
        let mut collector = Collector::new(generator.clone());
        if let Some(to) = events {
            to.begin()?;
            collector.add_sink(to.name().to_owned(), EventLog::new(BufWriter::new(to)));
        }
        if let Some(to) = hlog {
            to.begin()?;
            let name = to.name().to_owned();
            let log = HistogramLog::new(BufWriter::new(to), &generator);
            collector.add_sink(name.clone(), log.with_context(|| format!("cannot write {name}"))?);
        }
        Ok(collector)
    }
}

/// This generator, before its run.
fn generator(plan: &Plan) -> Generator {
    Generator {
        name: String::new(),
        program: ProgramInfo::now(command_line()),
        machine: Machine::this(),
        plan: PlanInfo::new(plan, public_name(&plan.key)),
        run: None,
    }
}

/// The first address of a name at which a server answers, as `connect` finds it, or the first one if
/// none answers. A single address is not tried.
fn first_answering(targets: &[SocketAddr], plan: &Plan) -> SocketAddr {
    let has_answered = |target: &SocketAddr| {
        let host = target.ip().to_string();
        let place = (host.as_str(), target.port());
        // This authenticates, because connections that do not count against their source.
        let client =
            Client::connect_by(plan.protocol, place, &plan.key, plan.algorithm, plan.timeout);
        !matches!(client, Err(ClientError::Connect(_) | ClientError::TimedOut(Stage::Connecting)))
    };
    match targets {
        [only] => *only,
        several => *several.iter().find(|target| has_answered(target)).unwrap_or(&several[0]),
    }
}

/// Gives a link-local source without a zone the zone of the server.
fn in_zone_of(target: SocketAddr, source: SocketAddr) -> SocketAddr {
    match (target, source) {
        (SocketAddr::V6(target), SocketAddr::V6(mut source))
            if source.ip().is_unicast_link_local() && source.scope_id() == 0 =>
        {
            source.set_scope_id(target.scope_id());
            source.into()
        }
        _ => source,
    }
}

/// The words of the command line. Invalid UTF-8 is replaced, as reports are text.
fn command_line() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn wait_for_start(args: &LoadArgs) -> Result<(), Failure> {
    let Some(start) = args.start_at else { return Ok(()) };
    match start.0.duration_since(SystemTime::now()) {
        Ok(wait) => thread::sleep(wait),
        Err(_) => {
            let [start, now] = [start.0, SystemTime::now()].map(humantime::format_rfc3339_seconds);
            let text = format!("--start-at {start} is in the past: it is now {now}");
            return Err(Failure::with_message(Exit::Usage, text));
        }
    }
    Ok(())
}

/// Makes SIGINT and SIGTERM end the load early, with its report; a second one ends the program.
/// Signals that were ignored when the program started stay ignored.
fn stop_on_signal(stop: impl Fn() + Send + 'static, has_screen: bool) -> Result<()> {
    let mut caught = not_ignored(&[SIGINT, SIGTERM]);
    if has_screen {
        // They end the program as always, but the terminal must be restored first.
        caught.extend(not_ignored(&[SIGHUP, SIGQUIT]));
    }
    let mut signals = Signals::new(caught).context("cannot catch signals")?;
    let work = move || {
        let mut is_stopping = false;
        for signal in signals.forever() {
            if [SIGINT, SIGTERM].contains(&signal) && !is_stopping {
                is_stopping = true;
                stop();
                continue;
            }
            #[cfg(feature = "tui")]
            tui::restore();
            // There is no other way to end the program if this fails.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(work)
        .context("cannot start a thread for signals")?;
    Ok(())
}

fn report_intervals(
    queue: &Receiver<Interval>,
    collector: &mut Collector,
    mut live: Option<Box<dyn Live>>,
) {
    for interval in queue {
        collector.take(&interval);
        if let Some(live) = &mut live {
            live.show(&interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use saltecho::auth::{Key, MacAlgorithm};

    use super::*;

    #[test]
    fn an_answering_address_is_preferred() {
        // It accepts connections and sends nothing.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from(([127, 9, 9, 9], open.port()));
        let mut plan = Plan::new(closed, Key::demo(), MacAlgorithm::Md5);
        plan.timeout = Some(Duration::from_millis(50));
        assert_eq!(first_answering(&[closed, open], &plan), open);
        assert_eq!(first_answering(&[closed, closed], &plan), closed, "none answers");
        assert_eq!(first_answering(&[closed], &plan), closed, "a single address");
    }

    #[test]
    fn a_link_local_source_gets_the_zone_of_the_server() {
        let [target, bare, zoned] =
            ["[fe80::1%3]:9", "[fe80::2]:0", "[fe80::2%4]:0"].map(|text| text.parse().unwrap());
        assert_eq!(in_zone_of(target, bare).to_string(), "[fe80::2%3]:0");
        assert_eq!(in_zone_of(target, zoned), zoned);
        let other = "[::1]:0".parse().unwrap();
        assert_eq!(in_zone_of(target, other), other);
    }
}
