//! From a tale to its part of the page.

use std::path::Path;

use saltecho::lab::Exercise;
use saltecho::trace::page::{Answer, Code, Mark, Page, Run, STOP, Story};
use saltecho::trace::{Event, World};

use super::script::play;
use super::{Side, Tale};

/// The repository, which the paths on the page begin at.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub const INTRODUCTION: &str = "An event loop is one thread that asks the kernel what has happened, and \
    then calls recv, send and accept, which must not wait. It goes wrong where it knows less than the \
    kernel. Each story plays one script twice, with a classic mistake and cured, and stops where it \
    matters. The first ten take fifteen minutes. The runs are real, over a simulated kernel with epoll's \
    edge-triggered rules (level-triggered loops spin where some of these sleep). In the code, server has \
    the connections and door is the listener.";

/// Plays a tale and adds it to the page.
pub fn tell(tale: &Tale, page: &mut Page) -> Result<(), String> {
    let mut runs = Vec::new();
    for (side, label) in [(&tale.mistake, "mistake"), (&tale.cure, "cure")] {
        let mut run = play(&tale.stage, side.turn).map_err(|error| format!("{label}: {error}"))?;
        run.name = format!("{}/{label}", tale.name);
        run.code = code(tale, side)?;
        let steps = run.steps.iter().zip(&run.pictures);
        let stop = steps.clone().position(|(step, picture)| (side.stop)(step, picture));
        let stop = stop.ok_or_else(|| format!("{label}: no step is the stop"))?;
        run.marks.push(Mark { name: STOP.to_owned(), step: stop, text: side.stop_text.to_owned() });
        run.end = end(&run);
        runs.push(run);
    }
    mark_difference(&mut runs)?;
    mark_code(&mut runs);
    let index = page.runs.len();
    page.runs.append(&mut runs);
    page.stories.push(story(tale, index)?);
    Ok(())
}

fn story(tale: &Tale, index: usize) -> Result<Story, String> {
    let mut answers: Vec<Answer> = tale
        .answers
        .iter()
        .enumerate()
        .map(|(number, (text, reply))| Answer {
            text: (*text).to_owned(),
            reply: (*reply).to_owned(),
            right: number == 0,
        })
        .collect();
    answers.sort_by(|one, other| one.text.cmp(&other.text));
    let (file, wanted) = tale.source;
    let text = the_line(&read(file)?, wanted).ok_or(format!("{file} has no line {wanted:?}"))?;
    let exercise = Exercise::find(tale.exercise)?;
    let (number, name) = (exercise.number, exercise.name.replace('-', " "));
    let programs = tale.programs.iter().map(|name| {
        let paths = [format!("examples/{name}.rs"), format!("examples/{name}/main.rs")];
        let path = paths.into_iter().find(|path| Path::new(ROOT).join(path).exists());
        Ok(((*name).to_owned(), path.ok_or(format!("no program is called {name}"))?))
    });
    Ok(Story {
        name: tale.name.to_owned(),
        title: tale.title.to_owned(),
        text: tale.text.join(" "),
        seen: tale.seen.iter().map(|place| (*place).to_owned()).collect(),
        mistake: index,
        cure: index + 1,
        question: tale.question.to_owned(),
        answers,
        rule: tale.rule.to_owned(),
        source: (file.to_owned(), text),
        exercise: (
            format!("exercise {number}, {name}"),
            format!("{}/README.md", exercise.directory()),
        ),
        programs: programs.collect::<Result<_, String>>()?,
    })
}

/// The function of one side, as its file has it.
fn code(tale: &Tale, side: &Side) -> Result<Code, String> {
    let (file, text) = tale.file;
    let before = text.lines().take_while(|line| !line.starts_with(side.function)).count();
    let lines = text.lines().skip(before);
    let mut body = Vec::new();
    for line in lines {
        body.push(line);
        if line == "}" {
            break;
        }
    }
    if body.is_empty() {
        return Err(format!("no line begins with {}", side.function));
    }
    let first = u32::try_from(before + 1).map_err(|error| error.to_string())?;
    Ok(Code { file: file.to_owned(), first, text: body.join("\n"), changed: Vec::new() })
}

/// The only line with this text.
fn the_line(text: &str, wanted: &str) -> Option<String> {
    let mut found = text.lines().filter(|line| line.contains(wanted));
    let line = found.next()?;
    found.next().is_none().then(|| line.trim().trim_start_matches("/// ").to_owned())
}

fn read(file: &str) -> Result<String, String> {
    let path = format!("{ROOT}/{file}");
    std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

/// The first step of their own at which the two loops differ is a place to go to in both.
fn mark_difference(runs: &mut [Run]) -> Result<(), String> {
    let own = |run: &Run| -> Vec<usize> {
        let steps = run.steps.iter().enumerate();
        steps
            .filter(|(_, step)| !matches!(step.event, Event::World(_)))
            .map(|(index, _)| index)
            .collect()
    };
    let (one, other) = (own(&runs[0]), own(&runs[1]));
    let pairs = one.iter().zip(&other);
    let same =
        pairs.take_while(|(a, b)| runs[0].steps[**a].event == runs[1].steps[**b].event).count();
    for (run, steps) in runs.iter_mut().zip([one, other]) {
        let step = *steps.get(same).ok_or("the two loops do not differ")?;
        let text = "The first step at which the two loops differ".to_owned();
        run.marks.push(Mark { name: "difference".to_owned(), step, text });
        run.marks.sort_by_key(|mark| mark.step);
    }
    Ok(())
}

/// Marks the lines that the other loop does not have.
fn mark_code(runs: &mut [Run]) {
    let lines = |run: &Run| -> Vec<String> {
        run.code.text.lines().map(|line| line.trim().to_owned()).collect()
    };
    let (one, other) = (lines(&runs[0]), lines(&runs[1]));
    for (run, mine, others) in [(0, &one, &other), (1, &other, &one)] {
        let new = mine.iter().zip(runs[run].code.first..).skip(1);
        let new = new.filter(|(line, _)| line.len() > 1 && !others.contains(line));
        runs[run].code.changed = new.map(|(_, number)| number).collect();
    }
}

/// A number with its thousands set apart.
fn grouped(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}

/// The sums of a run.
fn end(run: &Run) -> String {
    let Some(last) = run.pictures.last() else { return String::new() };
    let clients: Vec<String> = last
        .sockets
        .iter()
        .filter_map(|socket| {
            let (mut sent, mut got) = (0, 0);
            for step in &run.steps {
                match &step.event {
                    Event::World(World::Sends { stream, taken, .. })
                        if *stream == socket.stream =>
                    {
                        sent += taken;
                    }
                    Event::World(World::Reads(stream, n)) if *stream == socket.stream => got += n,
                    _ => {}
                }
            }
            let (name, put, read) = (socket.stream, grouped(sent), grouped(got));
            (sent > 0).then(|| format!("{name} has sent {put} bytes and got {read}"))
        })
        .collect();
    format!("In the end {}.", clients.join("; "))
}
