use std::fmt::Write as _;

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::film::Film;
use super::words::{grouped, visible};
use super::{Page, Run, Story};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const PLAYER: &str = include_str!("player.html");

/// The page, with what there is to see of each of its runs.
pub(super) fn page(page: &Page, films: &[Film]) -> String {
    let data = json!({
        "version": 1,
        "runs": page.runs.iter().zip(films).map(|(run, film)| run_json(run, film)).collect::<Vec<_>>(),
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
            for (run, film) in page.runs.iter().zip(films) {
                narration(&mut to, run, film, "The run");
            }
        }
        stories => stories.iter().for_each(|story| story_text(&mut to, story, &page.runs, films)),
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

fn run_json(run: &Run, film: &Film) -> Value {
    let marks = film
        .marks
        .iter()
        .map(|mark| json!({"name": mark.name, "step": mark.step, "text": visible(&mark.text)}));
    json!({
        "name": visible(&run.name),
        "code": {
            "file": run.code.file,
            "first": run.code.first,
            "lines": run.code.text.lines().collect::<Vec<_>>(),
            "changed": run.code.changed,
        },
        "marks": marks.collect::<Vec<_>>(),
        "end": visible(&run.end),
        "simulated": film.simulated,
        "overview": film.overview(),
        "steps": film.steps,
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
        "exercise": story.exercise,
        "programs": story.programs,
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
        let _ = writeln!(
            to,
            "<li><a href=\"#{name}\" data-story=\"{name}\">{}</a></li>",
            escape(&story.title)
        );
    }
    to.push_str("</ol></nav>\n");
}

fn story_text(to: &mut String, story: &Story, runs: &[Run], films: &[Film]) {
    let _ = writeln!(
        to,
        "<article id=\"{}\"><h3>{}</h3>\n<p>{}</p>",
        escape(&story.name),
        escape(&story.title),
        escape(&story.text)
    );
    if !story.seen.is_empty() {
        let _ = writeln!(to, "<p class=\"seen\">Seen in {}.</p>", escape(&story.seen.join(", ")));
    }
    narration(to, &runs[story.mistake], &films[story.mistake], "The mistake");
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
    narration(to, &runs[story.cure], &films[story.cure], "The cure");
    let (file, text) = &story.source;
    let links = story.programs.iter().map(|(name, path)| link(name, path));
    let _ = writeln!(
        to,
        "<p class=\"rule\"><b>Rule.</b> {} {}: <code>{}</code> To practice: {}. A program about it: {}.</p></article>",
        escape(&story.rule),
        link(file, file),
        escape(text),
        link(&story.exercise.0, &story.exercise.1),
        links.collect::<Vec<_>>().join(", ")
    );
}

/// A link to a file of the repository, whose pages are in `docs`.
fn link(text: &str, path: &str) -> String {
    format!("<a href=\"../{}\">{}</a>", escape(path), escape(text))
}

/// Every step of a run as a list, and the state at its stop as a table.
fn narration(to: &mut String, run: &Run, film: &Film, heading: &str) {
    let name = escape(&run.name);
    let _ = writeln!(to, "<details open><summary>{heading}: {} steps</summary>", film.texts.len());
    let _ = writeln!(to, "<ol class=\"steps\" data-run=\"{name}\">");
    for (index, [caption, raw, why]) in film.texts.iter().enumerate() {
        let mark = film.marks.iter().find(|mark| mark.step == index);
        let mark = mark.map_or(String::new(), |mark| format!(" <b>[{}]</b>", escape(&mark.text)));
        let why =
            if why.is_empty() { String::new() } else { format!(" <small>{}</small>", escape(why)) };
        let _ = writeln!(
            to,
            "<li><span>{}</span> <code>{}</code>{why}{mark}</li>",
            escape(caption),
            escape(raw)
        );
    }
    to.push_str("</ol>\n");
    if let Some(stop) = &film.stop {
        state_table(to, stop);
    }
    let _ = writeln!(to, "<p class=\"end\">{}</p></details>", escape(&run.end));
}

/// The state at the stop, for paper.
fn state_table(to: &mut String, state: &Map<String, Value>) {
    const COLUMNS: [(&str, &str); 7] = [
        ("stage", "stage"),
        ("told", "the loop believes"),
        ("held", "it holds"),
        ("unread", "unread in the kernel"),
        ("edge", "event to come"),
        ("put", "the client sent"),
        ("got", "the client got"),
    ];
    to.push_str(
        "<table class=\"stop\"><caption>Both sides at the stop</caption><tr><th>connection</th>",
    );
    COLUMNS.iter().for_each(|(_, title)| {
        let _ = write!(to, "<th>{title}</th>");
    });
    to.push_str("</tr>\n");
    for stream in state.keys().filter_map(|key| key.strip_suffix(".stage")) {
        let _ = write!(to, "<tr><th>{stream}</th>");
        for (key, _) in COLUMNS {
            let text = match state.get(&format!("{stream}.{key}")) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => grouped(number.as_u64().unwrap_or(0)),
                Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
                _ => String::new(),
            };
            let _ = write!(to, "<td>{}</td>", escape(&text));
        }
        to.push_str("</tr>\n");
    }
    to.push_str("</table>\n");
}
