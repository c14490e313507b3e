//! Grades the exercises: `cargo run -p lab -- 3` runs the loop in `lab/exercises/03_drain/skeleton.rs`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use lab::{Serve, TASKS, Task, stories};
use saltecho::lab::{Code, Exercise, Verdict, grade};
use saltecho::trace::page::{Page, STOP, Story};

const USAGE: &str = "\
usage: cargo run -p lab -- EXERCISE [OPTION]...

EXERCISE is a number or a name; `all` runs them in order up to the first that fails. `explain L02` explains
the code of a verdict, `stories` tells each classic mistake up to its stop, and `page` writes docs/loop.html,
which shows the stories in a browser.

  --text        print the exercise's page
  --solution    run the solution in the place of the skeleton
  --seed SEED   run one seed
  --seeds N     run the seeds from 0 to N-1 (10000)
  --html FILE   write the run that failed as a page for a browser

Without an exercise it lists them. Exit codes: 0 passed, 2 wrong usage, 5 failed, 6 unknown.";

/// How long one run may take, which makes some thousand calls at most.
const STUCK: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match parse(&words) {
        Ok(Wish::List) => {
            list();
            ExitCode::SUCCESS
        }
        Ok(Wish::Explain(code)) => {
            print!("{}", code.map_or_else(Code::list, Code::explanation));
            ExitCode::SUCCESS
        }
        Ok(Wish::Stories) => show(|page| {
            page.stories.iter().for_each(|story| tell(page, story));
            Ok(())
        }),
        Ok(Wish::Page) => show(|page| {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/loop.html");
            std::fs::write(file, page.to_html()).map_err(|error| format!("{file}: {error}"))?;
            println!("docs/loop.html: {} stories", page.stories.len());
            Ok(())
        }),
        Ok(Wish::Grade { exercises, text, solution, seeds, html }) => {
            for exercise in exercises {
                let task = &TASKS[exercise.number - 1];
                if text {
                    println!("{}", task.text);
                } else if let Err(code) =
                    grade_one(exercise, task, solution, seeds.clone(), html.as_deref())
                {
                    return ExitCode::from(code);
                }
            }
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("lab: {fault}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Wish {
    List,
    Explain(Option<Code>),
    Stories,
    Page,
    Grade {
        exercises: Vec<&'static Exercise>,
        text: bool,
        solution: bool,
        seeds: std::ops::Range<u64>,
        html: Option<String>,
    },
}

fn parse(words: &[String]) -> Result<Wish, String> {
    let Some((first, options)) = words.split_first() else { return Ok(Wish::List) };
    if first == "--help" || first == "-h" {
        println!("{USAGE}");
        return Ok(Wish::List);
    }
    let exercises = match first.as_str() {
        "explain" => {
            let code = options.first().map(|code| code.parse());
            return Ok(Wish::Explain(code.transpose()?));
        }
        "stories" => return Ok(Wish::Stories),
        "page" => return Ok(Wish::Page),
        "all" => Exercise::all().iter().collect(),
        name => vec![Exercise::find(name)?],
    };
    let (mut text, mut solution, mut seeds, mut html) = (false, false, 0..10_000, None);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut number = || {
            let word = options.next().map_or("nothing", String::as_str);
            word.parse::<u64>().map_err(|_| format!("{option} needs a number, not {word}"))
        };
        match option.as_str() {
            "--text" => text = true,
            "--solution" => solution = true,
            "--seed" => {
                let seed = number()?;
                seeds = seed..seed.checked_add(1).ok_or("the seed is too large")?;
            }
            "--seeds" => match number()? {
                0 => return Err("--seeds is at least 1".to_owned()),
                number => seeds = 0..number,
            },
            "--html" => html = Some(options.next().ok_or("--html needs a file")?.clone()),
            other => return Err(format!("there is no option {other}")),
        }
    }
    Ok(Wish::Grade { exercises, text, solution, seeds, html })
}

fn list() {
    println!("{:<18} {:>6}  the loop is to serve", "exercise", "time");
    for exercise in Exercise::all() {
        let time = format!("{} min", exercise.minutes);
        println!("{:<18} {time:>6}  {}", exercise.to_string(), exercise.title);
    }
    println!("\nBegin with `cargo run -p lab -- 1 --text`.");
}

/// Plays the stories.
fn show(how: impl FnOnce(&Page) -> Result<(), String>) -> ExitCode {
    match stories::page().and_then(|page| how(&page)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("lab: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a story up to its stop.
fn tell(page: &Page, story: &Story) {
    println!("{}: {}\n  {}", story.name, story.title, story.text);
    let run = &page.runs[story.mistake];
    let stop = run.mark(STOP).expect("each story has its stop");
    for line in saltecho::trace::lines(&run.steps[..=stop]) {
        println!("    {line}");
    }
    let mark = run.marks.iter().find(|mark| mark.name == STOP).map(|mark| mark.text.as_str());
    println!("    ^ {}", mark.unwrap_or_default());
    println!("  Rule: {} ({}, {})\n", story.rule, story.source.0, story.exercise.0);
}

fn grade_one(
    exercise: &'static Exercise,
    task: &Task,
    solution: bool,
    seeds: std::ops::Range<u64>,
    html: Option<&str>,
) -> Result<(), u8> {
    let (serve, file, flag) = match solution {
        true => (task.solution, "solution.rs", " --solution"),
        false => (task.skeleton, "skeleton.rs", ""),
    };
    let Some(verdict) = grade_within_time(exercise, serve, seeds) else {
        let seconds = STUCK.as_secs();
        println!("ERROR {exercise}\n  one run takes more than {seconds} s: a loop without calls?");
        return Err(6);
    };
    print!("{verdict}");
    let number = exercise.number;
    let directory = exercise.directory();
    match &verdict {
        Verdict::Pass { .. } => {
            if let Some((_, notes)) = task.text.split_once("\n## Notes\n") {
                println!("{}", notes.trim_end());
            }
            println!("\n  compare: {directory}/solution.rs");
            if let Some(Exercise { number, name, title, .. }) = Exercise::all().get(number) {
                println!("  next:    cargo run -p lab -- {number} --text    ({name}: {title})");
            }
            println!();
            Ok(())
        }
        Verdict::Fail(failure) => {
            let (origin, code) = (failure.origin, failure.code);
            println!("  explain:  cargo run -p lab -- explain {code}");
            println!("  where:    {directory}/{file}");
            if let Some(story) = stories::about(exercise.name, code) {
                println!("  story:    docs/loop.html#{story}, in a browser");
            }
            match html.map(|file| (file, std::fs::write(file, failure.page().to_html()))) {
                None => println!("  watch:    add --html FILE, a page of this run for a browser"),
                Some((file, Ok(()))) => println!("  watch:    {file}"),
                Some((file, Err(error))) => {
                    eprintln!("lab: cannot write {file}: {error}");
                    return Err(1);
                }
            }
            println!("  again:    cargo run -p lab -- {number}{flag} --{origin}");
            Err(5)
        }
        Verdict::Unsteady { origin, .. } => {
            println!("  again:    cargo run -p lab -- {number}{flag} --{origin}");
            Err(5)
        }
        Verdict::Unknown { .. } | Verdict::Error { .. } => Err(6),
    }
}

/// Grades in a thread of its own. `None` if a run does not end: then the loop makes no calls, since after
/// many without a gain it would have been stopped.
fn grade_within_time(
    exercise: &'static Exercise,
    serve: Serve,
    seeds: std::ops::Range<u64>,
) -> Option<Verdict> {
    let runs = Arc::new(AtomicU64::new(0));
    let (sender, verdict) = mpsc::channel();
    let counter = Arc::clone(&runs);
    thread::spawn(move || {
        let verdict = grade(exercise, seeds, |kernel| {
            counter.fetch_add(1, Ordering::Relaxed);
            let rules = *kernel.rules();
            serve(kernel, &mut (), &rules)
        });
        let _ = sender.send(verdict);
    });
    let mut before = u64::MAX;
    loop {
        match verdict.recv_timeout(STUCK) {
            Ok(verdict) => return Some(verdict),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if runs.load(Ordering::Relaxed) == before => {
                return None;
            }
            Err(RecvTimeoutError::Timeout) => before = runs.load(Ordering::Relaxed),
        }
    }
}
