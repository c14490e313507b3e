//! `saltecho load --sweep`: one load after the other, as the search asks for them.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use saltecho::load::report::{Collector, Grouped, Nanos, Report, Sweep, SweepReport, WindowReport};
use saltecho::load::sweep::{Backlog, Extent, Fate, Finding, Purpose, Request, Search, Standing};
use saltecho::load::{Load, Pace, Plan, Stopper};
use saltecho::reactor::MioKernel;

use super::args::LoadArgs;
use super::check::check_server;
use super::process::CpuWait;
use super::values::Rates;
use super::{EVENTS, generator, stop_on_signal};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Outputs};

/// Number of measurements at each rate, if there is no --repeat: the fewest that have a majority.
const REPEAT: u32 = 3;

/// Ends the sweep on a signal, whichever load is running.
#[derive(Clone, Default)]
struct Interrupt {
    is_caught: Arc<AtomicBool>,
    current: Arc<Mutex<Option<Stopper>>>,
}

impl Interrupt {
    fn catch(&self) {
        self.is_caught.store(true, Ordering::SeqCst);
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.iter().for_each(Stopper::stop);
    }

    fn is_caught(&self) -> bool {
        self.is_caught.load(Ordering::SeqCst)
    }

    /// Makes it end this load, also if it came before.
    fn watch(&self, stopper: &Stopper) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(stopper.clone());
        if self.is_caught() {
            stopper.stop();
        }
    }
}

pub(super) fn run(
    args: &LoadArgs,
    Rates(low, high): Rates,
    plan: &Plan,
    mut outputs: Outputs<3>,
) -> Result<(), Failure> {
    let interrupt = Interrupt::default();
    let caught = interrupt.clone();
    stop_on_signal(move || caught.catch(), false)?;
    let repeat = args.repeat.unwrap_or(REPEAT);
    let mut sweep = Sweep::new(Extent::new(low, high, args.steps, repeat), args.slo.clone());
    let mut lowest = plan.clone();
    lowest.pace = Pace::Open(low);
    let about = generator(&lowest);
    let mut warnings = Vec::new();
    while let Some(request) = sweep.next() {
        let (report, backlog, is_cut) = measure(request, plan, &interrupt)?;
        if interrupt.is_caught() {
            warnings.push("the sweep was stopped early".to_owned());
            break;
        }
        check_server(&report, &args.address)?;
        let window = sweep.take(request, &report, &backlog, is_cut);
        if !args.quiet {
            // Ignores errors: the reader of stderr may have left.
            let _ = writeln!(std::io::stderr(), "{}", progress(request, repeat, window));
        }
    }
    let report = sweep.finish(about, warnings);
    let text = if args.json { report.to_json_text() } else { report.to_text() };
    let text = outputs.report.put(&text);
    let [_, _, html] = outputs.named;
    let html = html.map(|mut html| html.put(&report.to_html()));
    output::all([text].into_iter().chain(html))?;
    check_sweep(&report)
}

/// Measures one window. Returns its report, its backlog, and whether it was cut short.
fn measure(
    request: Request,
    plan: &Plan,
    interrupt: &Interrupt,
) -> Result<(Report, Backlog, bool), Failure> {
    let mut plan = plan.clone();
    plan.pace = Pace::Open(request.rate.try_into().context("a rate is not zero")?);
    if request.purpose == Purpose::Confirm {
        plan.duration = plan.duration.saturating_mul(Search::CONFIRMATION);
    }
    let kernel = MioKernel::new(EVENTS).context("cannot set up the event loop")?;
    let load = Load::new(kernel, plan.clone());
    let load = load.map_err(|error| Failure::new(Exit::Usage, error))?;
    let stopper = load.stopper();
    interrupt.watch(&stopper);
    let mut backlog = Backlog::new(&plan);
    let mut is_cut = false;
    let mut cpu_wait = CpuWait::start();
    let outcome = load.run(|interval| {
        cpu_wait.update(interval.phase);
        if backlog.take(&interval) && !is_cut {
            is_cut = true;
            stopper.stop();
        }
    });
    let outcome = outcome.context("the event loop failed")?;
    let (report, _) = Collector::new(generator(&plan)).finish(outcome, cpu_wait.finish());
    Ok((report, backlog, is_cut))
}

/// A line about a window that was measured.
fn progress(request: Request, repeat: u32, window: &WindowReport) -> String {
    let purpose = match request.purpose {
        Purpose::Curve => "curve",
        Purpose::Again => "again",
        Purpose::Bisect => "bisect",
        Purpose::Confirm => "confirm",
    };
    let fate = match window.fate {
        Fate::Counted => format!(
            "p50 {}  p99 {}  errors {}",
            Nanos(window.times.p50_ns),
            Nanos(window.times.p99_ns),
            window.errors
        ),
        Fate::Overloaded if window.cut_short => "above capacity, cut short".to_owned(),
        Fate::Overloaded => "above capacity".to_owned(),
        Fate::Late => "excluded: the generator was late".to_owned(),
    };
    let rate = Grouped(request.rate);
    format!("{purpose:<7} {rate:>11}/s  {} of {repeat}  {fate}", request.number)
}

/// The exit code of a sweep: whether a rate holds, and whether that is known.
pub(in crate::cli) fn check_sweep(report: &SweepReport) -> Result<(), Failure> {
    let unreliable = |text: &str| Failure::with_message(Exit::Unreliable, text.to_owned());
    match (report.finding, &report.slo) {
        (Some(Finding::NoRate { .. } | Finding::NotReproduced { .. }), Some(slo)) => {
            let text = format!("no rate of the sweep holds {}", slo.text);
            Err(Failure::with_message(Exit::Assertion, text))
        }
        (Some(Finding::Unknown), _) => Err(unreliable(
            "the generator was late at the rates that matter; the report says where",
        )),
        (Some(Finding::Unfinished), _) => Err(unreliable("the sweep was stopped early")),
        _ if report.rates.iter().all(|rate| rate.standing == Standing::Late) => {
            Err(unreliable("no rate was measured without a late generator"))
        }
        _ => Ok(()),
    }
}
