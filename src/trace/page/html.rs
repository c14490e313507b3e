use std::fmt::Write as _;

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::model::{Model, changes, flat};
use super::{Page, Run, STOP, Story, caption};
use crate::trace::{Event, Narrator};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const PLAYER: &str = include_str!("player.html");

/// A run as the page has it.
struct Shown {
    json: Value,
    /// The captions, calls and explanations.
    told: Vec<[String; 3]>,
    /// The state at the stop.
    stop: Option<Map<String, Value>>,
}

pub(super) fn page(page: &Page) -> String {
    let shown: Vec<Shown> = page.runs.iter().map(show).collect();
    let data = json!({
        "version": 1,
        "runs": shown.iter().map(|run| run.json.clone()).collect::<Vec<_>>(),
        "stories": page.stories.iter().map(story_json).collect::<Vec<_>>(),
    });
    let mut to = String::new();
    let hash = |text: &str| BASE64.encode(&Sha256::digest(text));
    let _ = write!(
        to,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        hash(STYLE),
        hash(SCRIPT),
        escape(&page.title)
    );
    let _ = writeln!(
        to,
        "<header><h1>{}</h1>\n<p>{}</p></header>",
        escape(&page.title),
        escape(&page.introduction)
    );
    contents(&mut to, page);
    to.push_str(PLAYER);
    to.push_str("<div id=\"texts\">\n<h2>All of it as text</h2>\n");
    match page.stories.as_slice() {
        [] => {
            for (run, shown) in page.runs.iter().zip(&shown) {
                narration(&mut to, run, shown, "The run");
            }
        }
        stories => stories.iter().for_each(|story| story_text(&mut to, story, &page.runs, &shown)),
    }
    let _ = writeln!(
        to,
        "</div>\n<footer><p>{}. The page is one file and asks no other computer for anything.</p></footer>",
        escape(&page.version)
    );
    let _ = write!(
        to,
        "<script type=\"application/json\" id=\"data\">{}</script>\n<script>{SCRIPT}</script>\n\
         </body>\n</html>\n",
        embedded(&data)
    );
    to
}

/// JSON that no parser of HTML takes for a tag.
fn embedded(data: &Value) -> String {
    data.to_string()
        .replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// Escapes a text for use between tags and in attributes. Characters that would not be shown become
/// escapes that are.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in visible(text).chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Control characters and those that change the direction of text become escapes.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\'' | '"' | '\\' => shown.push(char),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

fn show(run: &Run) -> Shown {
    let (mut model, mut narrator) = (Model::default(), Narrator::new());
    let (mut flat_before, mut views) = (Map::new(), run.views.as_slice());
    let (mut steps, mut told, mut stop) = (Vec::new(), Vec::new(), None);
    let (range, stop_at) = (run.shown(), run.mark(STOP));
    for (index, step) in run.steps.iter().enumerate().take(range.end) {
        let before = model.state.clone();
        let mine = views.iter().take_while(|view| view.step <= index).count();
        let (now, later) = views.split_at(mine);
        views = later;
        model.step(step, run.pictures.get(index), now);
        let explained = narrator.tell(&step.event);
        if !range.contains(&index) {
            continue;
        }
        let after = flat(&model.state);
        let line = run.lines.get(index).copied().flatten();
        let act = run.acts.get(index).copied().unwrap_or(0);
        let is_world = matches!(step.event, Event::World(_));
        steps.push(json!([model.state.turn, act, line, u8::from(is_world), changes(&flat_before, &after)]));
        let caption = caption::caption(step, &before, &model);
        debug_assert!(caption.split(' ').count() <= caption::WORDS, "{caption}");
        let why = if run.explained { explained } else { String::new() };
        told.push([visible(&caption), visible(&caption::raw(&step.event)), visible(&why)]);
        if stop_at == Some(index) {
            stop = Some(after.clone());
        }
        flat_before = after;
    }
    let marks = run.marks.iter().filter(|mark| range.contains(&mark.step));
    let marks = marks.map(|mark| {
        json!({"name": mark.name, "step": mark.step - range.start, "text": visible(&mark.text)})
    });
    let json = json!({
        "name": run.name,
        "code": {
            "file": run.code.file,
            "first": run.code.first,
            "lines": run.code.text.lines().collect::<Vec<_>>(),
            "changed": run.code.changed,
        },
        "marks": marks.collect::<Vec<_>>(),
        "end": run.end,
        "simulated": !run.pictures.is_empty(),
        "overview": overview(run),
        "steps": steps,
    });
    Shown { json, told, stop }
}

/// The shape of the whole run: steps in each of a hundred equal parts of its turns, and which of them are
/// on the page. Only for runs of which a part is left out.
fn overview(run: &Run) -> Value {
    const PARTS: u64 = 100;
    let range = run.shown();
    if range.len() == run.steps.len() {
        return Value::Null;
    }
    let mut turn = 0;
    let turns: Vec<u64> = run
        .steps
        .iter()
        .map(|step| {
            turn += u64::from(matches!(step.event, Event::Poll(_)));
            turn
        })
        .collect();
    let part = |turn: u64| turn * (PARTS - 1) / turns.last().copied().unwrap_or(1).max(1);
    let mut parts = vec![0_u64; PARTS as usize];
    for turn in &turns {
        parts[usize::try_from(part(*turn)).expect("there are a hundred")] += 1;
    }
    json!({
        "parts": parts,
        "from": part(turns[range.start]),
        "to": part(turns[range.end - 1]),
        "text": format!(
            "Turns {} to {} of {} are on this page; the others are left out.",
            caption::grouped(turns[range.start]),
            caption::grouped(turns[range.end - 1]),
            caption::grouped(turn)
        ),
    })
}

fn story_json(story: &Story) -> Value {
    let answers = story.answers.iter();
    json!({
        "name": story.name,
        "title": story.title,
        "text": story.text,
        "seen": story.seen,
        "runs": [story.mistake, story.cure],
        "question": story.question,
        "answers": answers
            .map(|answer| json!([answer.text, answer.reply, answer.right]))
            .collect::<Vec<_>>(),
        "rule": story.rule,
        "source": story.source,
        "practice": story.practice,
    })
}

/// The list of stories.
fn contents(to: &mut String, page: &Page) {
    if page.stories.is_empty() {
        return;
    }
    to.push_str("<nav aria-label=\"Stories\"><ol>\n");
    for story in &page.stories {
        let name = escape(&story.name);
        let _ = writeln!(to, "<li><a href=\"#{name}\" data-story=\"{name}\">{}</a></li>", escape(&story.title));
    }
    to.push_str("</ol></nav>\n");
}

fn story_text(to: &mut String, story: &Story, runs: &[Run], shown: &[Shown]) {
    let _ = writeln!(
        to,
        "<article id=\"{}\"><h3>{}</h3>\n<p>{}</p>",
        escape(&story.name),
        escape(&story.title),
        escape(&story.text)
    );
    let _ = writeln!(to, "<p class=\"seen\">Seen in: {}.</p>", escape(&story.seen.join(", ")));
    narration(to, &runs[story.mistake], &shown[story.mistake], "The mistake");
    let _ = writeln!(to, "<p><b>{}</b></p>\n<ul>", escape(&story.question));
    for answer in &story.answers {
        let verdict = if answer.right { "Right" } else { "No" };
        let _ = writeln!(
            to,
            "<li>{} <i>{verdict}: {}</i></li>",
            escape(&answer.text),
            escape(&answer.reply)
        );
    }
    to.push_str("</ul>\n");
    narration(to, &runs[story.cure], &shown[story.cure], "The cure");
    let (file, line, text) = &story.source;
    let _ = writeln!(
        to,
        "<p class=\"rule\"><b>Rule.</b> {} <a href=\"../{}\">{}:{line}</a>: <code>{}</code></p></article>",
        escape(&story.rule),
        escape(file),
        escape(file),
        escape(text)
    );
}

/// Every step of a run as a list, and the state at its stop as a table.
fn narration(to: &mut String, run: &Run, shown: &Shown, heading: &str) {
    let name = escape(&run.name);
    let _ = writeln!(to, "<details open><summary>{heading}: {} steps</summary>", shown.told.len());
    let _ = writeln!(to, "<ol class=\"steps\" data-run=\"{name}\">");
    for (index, [caption, raw, why]) in shown.told.iter().enumerate() {
        let mark = run.marks.iter().find(|mark| mark.step == run.shown().start + index);
        let mark = mark.map_or(String::new(), |mark| format!(" <b>[{}]</b>", escape(&mark.text)));
        let why = if why.is_empty() { String::new() } else { format!(" <small>{}</small>", escape(why)) };
        let _ = writeln!(
            to,
            "<li><span>{}</span> <code>{}</code>{why}{mark}</li>",
            escape(caption),
            escape(raw)
        );
    }
    to.push_str("</ol>\n");
    if let Some(stop) = &shown.stop {
        state_table(to, stop);
    }
    let _ = writeln!(to, "<p class=\"end\">{}</p></details>", escape(&run.end));
}

/// The state at the stop, for paper.
fn state_table(to: &mut String, state: &Map<String, Value>) {
    const COLUMNS: [(&str, &str); 7] = [
        ("stage", "stage"),
        ("told", "the loop was told"),
        ("held", "it holds"),
        ("unread", "unread in the kernel"),
        ("edge", "event to come"),
        ("put", "the client sent"),
        ("got", "the client got"),
    ];
    to.push_str("<table class=\"stop\"><caption>Both sides at the stop</caption><tr><th>connection</th>");
    COLUMNS.iter().for_each(|(_, title)| {
        let _ = write!(to, "<th>{title}</th>");
    });
    to.push_str("</tr>\n");
    for stream in state.keys().filter_map(|key| key.strip_suffix(".stage")) {
        let _ = write!(to, "<tr><th>{stream}</th>");
        for (key, _) in COLUMNS {
            let text = match state.get(&format!("{stream}.{key}")) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => caption::grouped(number.as_u64().unwrap_or(0)),
                Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
                _ => String::new(),
            };
            let _ = write!(to, "<td>{}</td>", escape(&text));
        }
        to.push_str("</tr>\n");
    }
    to.push_str("</table>\n");
}
