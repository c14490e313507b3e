//! A recording as a page for a browser.

use std::path::Path;

use saltecho::proto::Handler;
use saltecho::server::{Replay, Replayed};
use saltecho::trace::page::{Beside, Fact, Film, Page, View};
use saltecho::trace::{Event, Header, Stream};

use super::ExplainArgs;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Outputs;
use crate::cli::replay::{Input, WithHandler, early_end, open, replay_with, unreadable};

/// Steps of a page: more of them make it slow to open.
const MOST: usize = 5000;

pub(super) fn write(args: &ExplainArgs, out: &Path) -> Result<(), Failure> {
    let path = args.file.as_path();
    let out = out.to_owned();
    let outputs = Outputs::open([("--html", Some(&out))], &[path], false);
    let mut outputs = outputs.map_err(|error| Failure::new(Exit::Usage, error))?;
    let (page, film, end) = film(args, path)?;
    if film.is_empty() {
        return Err(args.nothing_shown());
    }
    let [file] = &mut outputs.named;
    if let Some(file) = file {
        file.put(&page.of_film(&film, end))?;
    }
    Ok(())
}

/// Reads the recording and follows the part that the page shows.
fn film(args: &ExplainArgs, path: &Path) -> Result<(Page, Film, String), Failure> {
    let range = args.range();
    let mut skipped = steps_in(args, path)?.saturating_sub(MOST);
    let mut reader = open(path)?;
    let header = reader.header().clone();
    let mut follower = follow(path, &header)?;
    let (mut film, mut begun, mut gone) = (Film::of_server(), false, 0);
    while let Some(step) = reader.next_step().map_err(|error| unreadable(path, &error))? {
        let mut shown = range.contains(&u128::from(step.at.as_nanos()));
        if shown && skipped > 0 {
            skipped -= 1;
            shown = false;
        }
        if let Event::Snapshot { turns, .. } = step.event {
            gone = turns;
        }
        // The state between two turns is known when the next begins.
        let mut facts = Vec::new();
        if let (Event::Poll(_), Some(follower)) = (&step.event, &mut follower)
            && std::mem::replace(&mut begun, true)
        {
            facts = follower(shown);
        }
        let views: Vec<View> =
            facts.into_iter().map(|(stream, fact)| View { step: 0, stream, fact }).collect();
        film.step(&step, Beside { views: &views, ..Beside::default() }, shown);
    }
    let end = match early_end(&reader) {
        None => "Here the recording ends.".to_owned(),
        Some(fault) => format!("The recording {fault}."),
    };
    let get = |name: &str| header.get(name).unwrap_or("unknown").to_owned();
    let mut introduction =
        "A run of saltecho's loop over a real kernel, from a recording. What the kernel \
        and the clients knew is in no recording: you see the loop's side."
            .to_owned();
    if follower.is_none() {
        introduction.push_str(
            " It was recorded by another build than the one that made this page, so deadlines and places in \
             the run queue are missing, and the lines are those of this build.",
        );
    }
    if gone > 0 {
        introduction.push_str(&format!(
            " The recording begins with a snapshot after turn {gone}: what was before is gone."
        ));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let page = Page {
        title: format!("{name}: a run of saltecho's loop"),
        introduction,
        version: format!("Recorded by saltecho {}, commit {}", get("version"), get("commit")),
        ..Page::default()
    };
    Ok((page, film, end))
}

fn steps_in(args: &ExplainArgs, path: &Path) -> Result<usize, Failure> {
    let (mut reader, range, mut steps) = (open(path)?, args.range(), 0);
    while let Some(step) = reader.next_step().map_err(|error| unreadable(path, &error))? {
        steps += usize::from(range.contains(&u128::from(step.at.as_nanos())));
    }
    Ok(steps)
}

/// Replays one turn more, and returns what the loop then keeps, if it is asked for.
type Follower = Box<dyn FnMut(bool) -> Vec<(Stream, Fact)>>;

/// This build's loop beside the recording, if it is the recorded one.
fn follow(path: &Path, header: &Header) -> Result<Option<Follower>, Failure> {
    let build = option_env!("BUILD_COMMIT");
    if build.is_none() || header.get("commit") != build {
        return Ok(None);
    }
    Ok(replay_with(header, Following(open(path)?)))
}

struct Following(Input);

impl WithHandler for Following {
    type Output = Option<Follower>;

    fn with<H: Handler + Clone + 'static>(self, handler: H) -> Self::Output {
        let mut replay = Replay::new(self.0, handler).ok()?;
        let mut goes_on = true;
        Some(Box::new(move |wanted| {
            goes_on = goes_on && matches!(replay.turn(), Replayed::Turn);
            if goes_on && wanted { replay.views() } else { Vec::new() }
        }))
    }
}
