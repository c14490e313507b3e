use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::case::{Case, Met};
use super::code::Code;
use super::exercise::Exercise;
use super::judge::Fault;
use super::kernel::{LabKernel, Stop, error_name};
use super::log::Step;
use super::rules::Rules;
use super::script::{Act, Script};
use super::verdict::{Failure, Film, Origin, Verdict};
use crate::sim::SimKernel;
use crate::trace;

/// The error of a loop that could not speak with the lab, if it is a program at the other end of a pipe:
/// no verdict about its loop is possible.
#[derive(Debug)]
pub struct WireFault(pub String);

impl fmt::Display for WireFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WireFault {}

/// One run of a loop.
#[derive(Debug)]
pub struct Run {
    /// What went wrong: the code, the step from which on nothing could save the run, and what the kernel
    /// knew at that step.
    pub fault: Option<(Code, usize, String)>,
    /// What occurred.
    pub met: Met,
    /// All steps.
    pub steps: Vec<Step>,
}

/// Simpler scripts that [`grade`] tries for a script that fails.
const ATTEMPTS: u32 = 500;

/// The beginning of a note on a loop that panicked.
const PANIC: &str = "it panicked: ";

/// Runs a loop through one script and keeps every step.
///
/// # Errors
/// [`WireFault`], as text.
pub fn run(
    script: &Script,
    rules: Rules,
    mut event_loop: impl FnMut(&mut LabKernel) -> io::Result<()>,
) -> Result<Run, String> {
    let (fault, mut kernel) = run_once(script, rules, &mut event_loop, true)?;
    let last = kernel.log.last();
    Ok(Run {
        fault: fault.map(|fault| (fault.code, fault.step.unwrap_or(last), fault.note)),
        met: kernel.judge.met.clone(),
        steps: kernel.log.take(),
    })
}

/// Runs a loop through an exercise, once with each of these seeds, and stops at the first that fails.
/// A run follows from its seed and the loop alone.
///
/// The loop is called once for each run. It registers its listener and goes on until a call unwinds out
/// of it; it should not return.
pub fn grade(
    exercise: &'static Exercise,
    seeds: Range<u64>,
    event_loop: impl FnMut(&mut LabKernel) -> io::Result<()>,
) -> Verdict {
    grade_in(exercise, seeds, ATTEMPTS, event_loop)
}

/// The same with a number of simpler scripts to try for one that fails, for a loop whose runs take long.
pub fn grade_in(
    exercise: &'static Exercise,
    seeds: Range<u64>,
    attempts: u32,
    event_loop: impl FnMut(&mut LabKernel) -> io::Result<()>,
) -> Verdict {
    let scripts = seeds.map(|seed| (Origin::Seed(seed), exercise.draw(seed)));
    grade_all(exercise, scripts, attempts, event_loop)
}

/// Runs a loop through every [short script](Exercise::short_scripts) of an exercise, and stops at the
/// first that fails.
pub fn exhaust(
    exercise: &'static Exercise,
    length: u32,
    event_loop: impl FnMut(&mut LabKernel) -> io::Result<()>,
) -> Verdict {
    let scripts = (0..).map(Origin::Script).zip(exercise.short_scripts(length));
    grade_all(exercise, scripts, ATTEMPTS, event_loop)
}

fn grade_all(
    exercise: &'static Exercise,
    scripts: impl Iterator<Item = (Origin, Script)>,
    attempts: u32,
    mut event_loop: impl FnMut(&mut LabKernel) -> io::Result<()>,
) -> Verdict {
    let (mut met, mut runs) = (Met::default(), 0);
    for (origin, script) in scripts {
        match run_once(&script, exercise.rules, &mut event_loop, false) {
            Ok((None, kernel)) => {
                let jumps = script.acts.iter().filter(|act| matches!(act, Act::Jump(_)));
                jumps.for_each(|_| met.count(Case::Jump));
                met.add(&kernel.judge.met);
                runs += 1;
            }
            Ok((Some(fault), _)) => {
                // A panic prints its message each time.
                let attempts = if fault.note.starts_with(PANIC) { 0 } else { attempts };
                return fail(exercise, origin, &script, (fault.code, attempts), &mut event_loop);
            }
            Err(text) => return Verdict::Error { exercise, origin, text },
        }
    }
    let missing = exercise.cases.iter().copied().filter(|case| met.of(*case) == 0);
    match missing.collect::<Vec<_>>() {
        missing if missing.is_empty() => Verdict::Pass { exercise, runs, met },
        missing => Verdict::Unknown { exercise, runs, missing, met },
    }
}

/// Simplifies a script that fails, and tells its story.
fn fail(
    exercise: &'static Exercise,
    origin: Origin,
    script: &Script,
    (code, attempts): (Code, u32),
    event_loop: &mut impl FnMut(&mut LabKernel) -> io::Result<()>,
) -> Verdict {
    let mut again = |script: &Script, traced| run_once(script, exercise.rules, event_loop, traced);
    let mut smallest = simplify(script, attempts, |script| match again(script, false) {
        Ok((Some(fault), kernel)) if fault.code == code => Some(kernel.sim.true_chances().to_vec()),
        _ => None,
    });
    match again(&smallest, true) {
        Ok((Some(fault), mut kernel)) if fault.code == code => {
            if let Some(strikes) = &mut smallest.strikes {
                // Some belong to calls that this run does not make.
                *strikes = kernel.sim.true_chances().to_vec();
            }
            let mark = fault.step.unwrap_or(kernel.log.last());
            Verdict::Fail(Box::new(Failure {
                exercise,
                origin,
                code,
                note: fault.note,
                mark,
                steps: kernel.log.take(),
                acts: script.acts.len(),
                script: smallest,
                film: film(&kernel.sim, fault.step.is_some()),
            }))
        }
        Ok(_) => Verdict::Unsteady { exercise, origin, code },
        Err(text) => Verdict::Error { exercise, origin, text },
    }
}

/// The simplest script that so many attempts find. `fails` returns the faults of the kernel that happened,
/// by their numbers, if a script fails in the same way.
fn simplify(
    script: &Script,
    mut attempts: u32,
    mut fails: impl FnMut(&Script) -> Option<Vec<u32>>,
) -> Script {
    let mut smallest = script.clone();
    'simpler: while attempts > 0 {
        for candidate in smallest.simpler() {
            if attempts == 0 {
                break 'simpler;
            }
            attempts -= 1;
            if fails(&candidate).is_some() {
                smallest = candidate;
                continue 'simpler;
            }
        }
        // Nothing can be left out as a whole any more: now each fault by itself.
        match fails(&smallest) {
            Some(strikes) if smallest.strikes.is_none() && !strikes.is_empty() => {
                smallest.strikes = Some(strikes);
            }
            _ => break,
        }
    }
    smallest
}

/// The events of a run that failed, marked at its end, or at the close that the fault is about.
fn film(sim: &SimKernel, at_close: bool) -> Film {
    let is_close = |step: &trace::Step| matches!(step.event, trace::Event::Close(..));
    let steps = sim.trace().to_vec();
    let close = steps.iter().rposition(is_close).filter(|_| at_close);
    let mark = close.unwrap_or(steps.len().saturating_sub(1));
    Film { steps, pictures: sim.pictures().to_vec(), mark }
}

fn run_once(
    script: &Script,
    rules: Rules,
    event_loop: &mut impl FnMut(&mut LabKernel) -> io::Result<()>,
    traced: bool,
) -> Result<(Option<Fault>, LabKernel), String> {
    let mut kernel = LabKernel::new(script, rules);
    if traced {
        kernel.log.keep();
        kernel.sim.start_trace();
        kernel.sim.start_pictures();
    }
    let result = catch_unwind(AssertUnwindSafe(|| event_loop(&mut kernel)));
    let ended = match (result, kernel.outcome.take()) {
        (_, Some(outcome)) => return Ok((outcome.err(), kernel)),
        (Ok(Ok(())), None) => "it returned".to_owned(),
        (Ok(Err(error)), None) => {
            if let Some(WireFault(text)) = error.get_ref().and_then(|error| error.downcast_ref()) {
                return Err(text.clone());
            }
            match error.get_ref() {
                Some(source) => format!("it returned an error: {source}"),
                None => format!("it returned the error {}", error_name(&error)),
            }
        }
        (Err(payload), None) => format!("{PANIC}{}", panic_text(payload.as_ref())),
    };
    kernel.log.call(|| "the loop ends".to_owned());
    Ok((Some(Fault::new(Code::Ended, ended)), kernel))
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    debug_assert!(!payload.is::<Stop>(), "a run that was stopped has an outcome");
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
