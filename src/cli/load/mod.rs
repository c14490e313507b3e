//! `saltecho load`: what the flags ask for, what this machine allows, and what is told of it.

mod args;
pub(super) mod check;
mod live;
mod outcome;
mod preflight;
mod process;
#[cfg(feature = "tui")]
mod tui;
mod values;

use std::io::{self, BufWriter};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result};
use saltecho::client::{Client, ClientError, Stage};
use saltecho::load::report::{About, Collector, EventLog, Generator, HistogramLog, Machine, Setup};
use saltecho::load::{Interval, Load, Pace, Plan, Stopper};
use saltecho::server::MioKernel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

pub(super) use args::LoadArgs;
use live::{Lines, Live};
use preflight::{Limits, object_to_sources, object_to_tui};
use process::{Waits, Watch};

use super::failure::{Failure, Kind};
use super::keyfile::public_name;
use super::output::{Output, Outputs};
use super::reply::Reply;
use super::signals::not_ignored;

/// Events taken from one poll at first.
const EVENTS: usize = 1024;

pub(super) fn run(args: &LoadArgs) -> Result<(), Failure> {
    if args.tui
        && let Some(objection) = object_to_tui(args.quiet)
    {
        return Err(Failure::because(Kind::Usage, objection));
    }
    if let Some(objection) = args.object_to_contradictions() {
        return Err(Failure::because(Kind::Usage, objection));
    }
    let targets = args.targets()?;
    let mut plan = args.plan(targets[0])?;
    let limits = Limits::examine(plan.target.ip());
    if let Some(objection) = object_to_sources(&plan).or_else(|| limits.object_to(&plan)) {
        return Err(Failure::because(Kind::Usage, objection));
    }
    // Until the load begins there is nothing to end in order, so a signal does what it always does:
    // also to a wait for the reader of a FIFO that a result goes to, or for the time of day.
    let outputs = args.outputs().map_err(|error| Failure::new(Kind::Usage, error))?;
    let [events, hlog, html] = outputs.named;
    let mut watch = args.pid.map(Watch::begin).transpose().context("--pid")?;
    wait_for_beginning(args)?;
    plan.target = answering(&targets, &plan);
    let mut collector = args.collector(&plan, events, hlog)?;
    let kernel = MioKernel::new(EVENTS).context("cannot set up the event loop")?;
    let load = Load::new(kernel, plan.clone());
    let load = load.map_err(|error| Failure::new(Kind::Usage, error))?;
    stop_on_signal(load.stopper(), args.tui)?;

    // What is told takes time, so it is another thread that tells: the loop must not wait for it.
    let (intervals, queue) = channel();
    let live = args.live(&plan).context("cannot take the terminal for --tui")?;
    let teller = thread::Builder::new().name("report".to_owned());
    let teller = teller.spawn(move || {
        tell(&queue, &mut collector, live);
        collector
    });
    let teller = teller.context("cannot start a thread for the report")?;
    let mut waits = Waits::begin();
    let outcome = load.run(|interval| {
        if let Some(watch) = &mut watch {
            watch.look(interval.part);
        }
        waits.look(interval.part);
        // The teller ends with the load, and not before.
        let _ = intervals.send(interval);
    });
    drop(intervals);
    // Whatever is said from here on, the teller has given the terminal back.
    let collector = teller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let outcome = outcome.context("the event loop failed")?;
    let (mut report, failures) = collector.finish(outcome, waits.finish());
    report.server = watch.map(Watch::finish);
    outcome::tell(args, &report, failures, outputs.report, html)
}

impl LoadArgs {
    fn plan(&self, target: SocketAddr) -> Result<Plan, Failure> {
        let usage = |error: anyhow::Error| Failure::new(Kind::Usage, error);
        let key = self.keys.load().map_err(usage)?.swap_remove(0);
        let active = match self.active {
            None => self.connections,
            Some(active) => {
                active.of(self.connections).map_err(|text| Failure::because(Kind::Usage, text))?
            }
        };
        let plan = Plan::new(target, key, self.keys.mac.into());
        let pace = match self.rate {
            _ if self.closed => Pace::Closed,
            Some(rate) => Pace::Open(rate.0),
            None => plan.pace,
        };
        let sources = self.source.iter().flat_map(|sources| &sources.0);
        Ok(Plan {
            sources: sources.map(|source| in_zone_of(target, *source)).collect(),
            mode: self.mode.into(),
            pace,
            connections: self.connections as usize,
            active: active as usize,
            in_flight: self.in_flight.map_or(plan.in_flight, |number| number as usize),
            size: self.size.0,
            upper: matches!(self.reply, Reply::Upper),
            ramp: self.ramp.unwrap_or_default(),
            duration: self.duration,
            timeout: self.timeout.0,
            seed: self.seed,
            spin: self.spin.0,
            ..plan
        })
    }

    /// The addresses of the server, never none: those of the sources' family if it has any.
    fn targets(&self) -> Result<Vec<SocketAddr>, Failure> {
        let address = &self.address;
        let all = (address.host.as_str(), address.port).to_socket_addrs();
        let all = all.with_context(|| format!("cannot find {address}"));
        let all: Vec<_> = all.map_err(|error| Failure::new(Kind::Unreachable, error))?.collect();
        let source = self.source.as_ref().and_then(|sources| sources.0.first());
        let is_wanted =
            |target: &&SocketAddr| source.is_none_or(|source| source.is_ipv4() == target.is_ipv4());
        let wanted: Vec<_> = all.iter().filter(is_wanted).copied().collect();
        match if wanted.is_empty() { all } else { wanted } {
            none if none.is_empty() => {
                Err(Failure::because(Kind::Unreachable, format!("{address} has no address")))
            }
            targets => Ok(targets),
        }
    }

    /// What shows how it goes, unless nobody wants to know.
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

    /// Opens what is going to be written.
    fn outputs(&self) -> Result<Outputs<3>> {
        let flags = [
            ("--events", self.events.as_ref()),
            ("--hlog", self.hlog.as_ref()),
            ("--html", self.html.as_ref()),
        ];
        let key: Vec<&Path> = self.keys.key_file.iter().map(PathBuf::as_path).collect();
        Outputs::open(flags, &key, self.json)
    }

    /// What takes the seconds of the run, and writes them to the files that were asked for.
    fn collector(
        &self,
        plan: &Plan,
        events: Option<Output>,
        hlog: Option<Output>,
    ) -> Result<Collector> {
        let generator = Generator {
            name: String::new(),
            about: About::now(command_line()),
            machine: Machine::this(),
            setup: Setup::of(plan, public_name(&plan.key)),
            ran: None,
        };
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

/// The first of several addresses of a name at which a server answers, as `connect` finds it; the
/// first of all if there is none. Where there is but one it is not tried.
fn answering(targets: &[SocketAddr], plan: &Plan) -> SocketAddr {
    let has_answered = |target: &SocketAddr| {
        let host = target.ip().to_string();
        let place = (host.as_str(), target.port());
        // It authenticates, too, since connections that do not are counted against their source.
        let client = Client::connect(place, &plan.key, plan.algorithm, plan.timeout);
        !matches!(client, Err(ClientError::Connect(_) | ClientError::TimedOut(Stage::Connecting)))
    };
    match targets {
        [only] => *only,
        several => *several.iter().find(|target| has_answered(target)).unwrap_or(&several[0]),
    }
}

/// A link-local source without a zone is in that of the server.
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

/// The words of the command line. What is not UTF-8 in them cannot be told in a report.
fn command_line() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn wait_for_beginning(args: &LoadArgs) -> Result<(), Failure> {
    let Some(start) = args.start_at else { return Ok(()) };
    match start.0.duration_since(SystemTime::now()) {
        Ok(wait) => thread::sleep(wait),
        Err(_) => {
            let [start, now] = [start.0, SystemTime::now()].map(humantime::format_rfc3339_seconds);
            let text = format!("--start-at {start} has passed: it is {now} now");
            return Err(Failure::because(Kind::Usage, text));
        }
    }
    Ok(())
}

/// SIGINT and SIGTERM end the load early, with its report; a second one ends the program. A signal
/// that was ignored when the program began stays so.
fn stop_on_signal(stopper: Stopper, has_screen: bool) -> Result<()> {
    let mut caught = not_ignored(&[SIGINT, SIGTERM]);
    if has_screen {
        // They end the program as ever, but the terminal must be given back first.
        caught.extend(not_ignored(&[SIGHUP, SIGQUIT]));
    }
    let mut signals = Signals::new(caught).context("cannot catch signals")?;
    let work = move || {
        let mut is_stopping = false;
        for signal in signals.forever() {
            if [SIGINT, SIGTERM].contains(&signal) && !is_stopping {
                is_stopping = true;
                stopper.stop();
                continue;
            }
            #[cfg(feature = "tui")]
            tui::give_back();
            // If this fails there is nothing that would end it.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(work)
        .context("cannot start a thread for signals")?;
    Ok(())
}

fn tell(queue: &Receiver<Interval>, collector: &mut Collector, mut live: Option<Box<dyn Live>>) {
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
    fn the_address_is_one_at_which_something_answers() {
        // It says nothing, but it is there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from(([127, 9, 9, 9], open.port()));
        let mut plan = Plan::new(closed, Key::demo(), MacAlgorithm::Md5);
        plan.timeout = Some(Duration::from_millis(50));
        assert_eq!(answering(&[closed, open], &plan), open);
        assert_eq!(answering(&[closed, closed], &plan), closed, "there is none");
        assert_eq!(answering(&[closed], &plan), closed, "there is no other");
    }

    #[test]
    fn a_link_local_source_is_in_the_zone_of_the_server() {
        let [target, bare, zoned] =
            ["[fe80::1%3]:9", "[fe80::2]:0", "[fe80::2%4]:0"].map(|text| text.parse().unwrap());
        assert_eq!(in_zone_of(target, bare).to_string(), "[fe80::2%3]:0");
        assert_eq!(in_zone_of(target, zoned), zoned);
        let other = "[::1]:0".parse().unwrap();
        assert_eq!(in_zone_of(target, other), other);
    }
}
