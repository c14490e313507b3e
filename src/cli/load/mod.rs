//! `saltecho load`: what the flags ask for, what this machine allows, and what is told of it.

mod args;
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
use saltecho::load::report::{
    About, Collector, EventLog, Generator, HistogramLog, Machine, Nanos, Setup,
};
use saltecho::load::{Interval, Load, Pace, Plan, Stopper};
use saltecho::server::MioKernel;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub(super) use args::LoadArgs;
use live::{Lines, Live};
use preflight::{Limits, object_to_sources, object_to_tui};
use process::{Watch, waited_for_a_processor};

use super::args::Reply;
use super::failure::{Failure, Kind};
use super::keyfile::public_name;
use super::output::{Output, Outputs};

/// Events taken from one poll at first.
const EVENTS: usize = 1024;

pub(super) fn run(args: &LoadArgs) -> Result<(), Failure> {
    if args.tui
        && let Some(objection) = object_to_tui(args.quiet)
    {
        return Err(Failure::because(Kind::Usage, objection));
    }
    let plan = args.plan()?;
    let limits = Limits::examine(plan.target.ip());
    if let Some(objection) = object_to_sources(&plan).or_else(|| limits.object_to(&plan)) {
        return Err(Failure::because(Kind::Usage, objection));
    }
    // Before signals are caught, so that they end a wait for the reader of a FIFO.
    let outputs = args.outputs().map_err(|error| Failure::new(Kind::Usage, error))?;
    let [events, hlog, html] = outputs.named;
    let mut watch = args.pid.map(Watch::begin).transpose().context("--pid")?;
    let signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    wait_for_beginning(args)?;
    let mut collector = args.collector(&plan, events, hlog)?;
    let kernel = MioKernel::new(EVENTS).context("cannot set up the event loop")?;
    let load = Load::new(kernel, plan.clone());
    stop_on_signal(signals, load.stopper())?;

    // What is told takes time, so it is another thread that tells: the loop must not wait for it.
    let (intervals, queue) = channel();
    let live = args.live(&plan).context("cannot take the terminal for --tui")?;
    let teller = thread::Builder::new().name("report".to_owned());
    let teller = teller.spawn(move || {
        tell(&queue, &mut collector, live);
        collector
    });
    let teller = teller.context("cannot start a thread for the report")?;
    let waited = waited_for_a_processor();
    let outcome = load.run(|interval| {
        if let Some(watch) = &mut watch {
            watch.look(interval.part);
        }
        // The teller ends with the load, and not before.
        let _ = intervals.send(interval);
    });
    let waited = waited_for_a_processor().zip(waited).map(|(after, before)| after - before);
    drop(intervals);
    // Whatever is said from here on, the teller has given the terminal back.
    let collector = teller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let outcome = outcome.context("the event loop failed")?;
    let (mut report, failures) = collector.finish(outcome, waited);
    report.server = watch.map(Watch::finish);
    outcome::tell(args, &report, failures, outputs.report, html)
}

impl LoadArgs {
    fn plan(&self) -> Result<Plan, Failure> {
        let usage = |error: anyhow::Error| Failure::new(Kind::Usage, error);
        let key = self.keys.load().map_err(usage)?.swap_remove(0);
        let active = match self.active {
            None => self.connections,
            Some(active) => {
                active.of(self.connections).map_err(|text| Failure::because(Kind::Usage, text))?
            }
        };
        Ok(Plan {
            sources: self.source.clone().map(|sources| sources.0).unwrap_or_default(),
            mode: self.mode.into(),
            pace: if self.closed { Pace::Closed } else { Pace::Open(self.rate.0) },
            connections: self.connections as usize,
            active: active as usize,
            in_flight: self.in_flight as usize,
            size: self.size.0,
            upper: matches!(self.reply, Reply::Upper),
            ramp: self.ramp.unwrap_or_default(),
            duration: self.duration,
            timeout: self.timeout.0,
            seed: self.seed,
            spin: self.spin.0.unwrap_or_default(),
            ..Plan::new(self.target()?, key, self.keys.mac.into())
        })
    }

    /// The first address that the name has of the kind of the sources, if there are any.
    fn target(&self) -> Result<SocketAddr, Failure> {
        let address = &self.address;
        let all = (address.host.as_str(), address.port).to_socket_addrs();
        let all = all.with_context(|| format!("cannot find {address}"));
        let mut all = all.map_err(|error| Failure::new(Kind::Unreachable, error))?.peekable();
        let first = all.peek().copied();
        let wanted = self.source.as_ref().and_then(|sources| sources.0.first());
        let target = match wanted {
            None => first,
            Some(source) => all.find(|target| target.is_ipv4() == source.is_ipv4()).or(first),
        };
        target
            .ok_or_else(|| Failure::because(Kind::Unreachable, format!("{address} has no address")))
    }

    /// What shows how it goes, unless nobody wants to know.
    fn live(&self, plan: &Plan) -> io::Result<Option<Box<dyn Live>>> {
        #[cfg(feature = "tui")]
        if self.tui {
            return Ok(Some(Box::new(tui::Screen::new(plan)?)));
        }
        Ok((!self.quiet).then(|| Box::new(Lines::new(plan.mode)) as _))
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
            about: About::now(std::env::args().collect()),
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

fn wait_for_beginning(args: &LoadArgs) -> Result<(), Failure> {
    let Some(start) = args.start_at else { return Ok(()) };
    match start.0.duration_since(SystemTime::now()) {
        Ok(wait) => thread::sleep(wait),
        Err(late) => {
            let late = Nanos::from(late.duration());
            let text = format!("--start-at {} was {late} ago", humantime::format_rfc3339(start.0));
            return Err(Failure::because(Kind::Usage, text));
        }
    }
    Ok(())
}

/// The first signal ends the load early, with its report; the second ends the program.
fn stop_on_signal(mut signals: Signals, stopper: Stopper) -> Result<()> {
    let work = move || {
        let mut all = signals.forever();
        if all.next().is_some() {
            stopper.stop();
        }
        if let Some(signal) = all.next() {
            #[cfg(feature = "tui")]
            tui::give_back();
            // There is nobody to tell if this fails.
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
