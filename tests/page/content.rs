use std::collections::HashSet;
use std::fs;

use lab::stories;
use saltecho::trace::page::{Page, Run, STOP};
use serde_json::{Map, Value};

use crate::replayed::clients;

pub fn page() -> Page {
    stories::page().unwrap()
}

pub fn data(html: &str) -> Value {
    let (_, rest) = html.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

/// The captions of each run, as the lists of the page have them.
pub fn captions(html: &str, run: &Run) -> Vec<String> {
    let (_, rest) =
        html.split_once(&format!("<ol class=\"steps\" data-run=\"{}\">", run.name)).unwrap();
    let list = rest.split_once("</ol>").unwrap().0;
    let items = list.split("<li><span>").skip(1);
    let unescape = |text: &str| {
        text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    };
    items.map(|item| unescape(item.split_once("</span>").unwrap().0)).collect()
}

/// A state after the changes of a step.
fn apply(state: &mut Map<String, Value>, step: &Value) {
    for (key, value) in step[4].as_object().unwrap() {
        match value {
            Value::Null => drop(state.remove(key)),
            value => drop(state.insert(key.clone(), value.clone())),
        }
    }
}

#[test]
fn the_committed_page_is_what_the_stories_make() {
    let committed =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/loop.html")).unwrap();
    // Not assert_eq, which would print both.
    assert!(
        committed == page().to_html(),
        "docs/loop.html is out of date: cargo run -p lab -- page"
    );
    assert!(committed.len() < 1 << 20, "{} bytes", committed.len());
}

#[test]
fn every_state_is_what_the_steps_add_up_to() {
    let page = page();
    let data = data(&page.to_html());
    let mut compared = 0;
    for (run, shown) in page.runs.iter().zip(data["runs"].as_array().unwrap()) {
        let (steps, mut state) = (shown["steps"].as_array().unwrap(), Map::new());
        assert_eq!(steps.len(), run.steps.len(), "{}", run.name);
        for (index, step) in steps.iter().enumerate() {
            apply(&mut state, step);
            let place = format!("{} step {}", run.name, index + 1);
            for client in clients(run, index) {
                let get = |key: &str| &state[&format!("{}.{key}", client.stream)];
                assert_eq!(*get("put"), client.put, "{place}");
                assert_eq!(*get("got"), client.got, "{place}");
                assert_eq!(*get("received"), client.received, "{place}");
                assert_eq!(*get("sent"), client.sent, "{place}");
                assert_eq!(*get("told"), *client.told, "{place}");
                assert_eq!(*get("held"), client.held, "{place}");
                if let Some(unread) = client.unread {
                    assert_eq!(*get("unread"), unread, "{place}");
                }
                compared += 1;
            }
            let queue = run.pictures[index].queue.iter().map(ToString::to_string);
            assert_eq!(state["queue"], queue.collect::<Vec<_>>().join(" "), "{place}");
            assert_eq!(state["edge"], run.pictures[index].listener_edge, "{place}");
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn a_cure_leaves_nothing_undone_and_a_mistake_does() {
    let page = page();
    let data = data(&page.to_html());
    for story in &page.stories {
        let [mistake, cure] = [story.mistake, story.cure].map(|index| {
            let (run, mut state) = (&page.runs[index], Map::new());
            let steps = data["runs"][index]["steps"].as_array().unwrap();
            steps.iter().for_each(|step| apply(&mut state, step));
            let gaps = state.iter().filter(|(key, _)| key.ends_with(".gap")).count();
            let waiting = usize::from(!run.pictures.last().unwrap().queue.is_empty());
            // All clients echo, except where a story says how much they get.
            let clients = clients(run, run.steps.len() - 1);
            (gaps + waiting, clients.iter().map(|client| client.got).sum::<usize>())
        });
        assert_eq!(cure.0, 0, "{}", story.name);
        let slower = ["greedy", "slow-reader"].contains(&story.name.as_str());
        assert!(
            mistake.0 > 0 || mistake.1 < cure.1 || slower,
            "{}: {mistake:?} {cure:?}",
            story.name
        );
    }
}

#[test]
fn every_story_stops_asks_and_answers() {
    let page = page();
    let names: HashSet<_> = page.stories.iter().map(|story| &story.name).collect();
    assert_eq!(names.len(), page.stories.len());
    assert!(names.len() >= 10);
    for story in &page.stories {
        for run in [&page.runs[story.mistake], &page.runs[story.cure]] {
            let stop = run.mark(STOP).unwrap();
            assert!(stop > 0 && run.mark("difference").is_some(), "{}", run.name);
            assert!(run.lines.iter().flatten().count() > 5, "{}", run.name);
            let last = run.code.first + u32::try_from(run.code.text.lines().count()).unwrap();
            for line in run.lines.iter().flatten() {
                assert!((run.code.first..last).contains(line), "{}: line {line}", run.name);
            }
            assert!(!run.code.changed.is_empty(), "{}", run.name);
        }
        assert_eq!(story.answers.iter().filter(|answer| answer.right).count(), 1, "{}", story.name);
        assert!((2..=3).contains(&story.answers.len()), "{}", story.name);
        assert!(!story.rule.is_empty() && !story.source.1.is_empty());
        let sentences = story.text.matches(['.', '?', '!']).count();
        assert!(sentences >= 3, "{}: {sentences} sentences", story.name);
    }
}

#[test]
fn every_run_is_told_as_a_list() {
    let page = page();
    let html = page.to_html();
    for run in &page.runs {
        let captions = captions(&html, run);
        assert_eq!(captions.len(), run.steps.len(), "{}", run.name);
        for caption in captions {
            assert!((2..=25).contains(&caption.split_whitespace().count()), "{caption}");
        }
    }
    assert!(
        !html.contains("http:") && !html.contains("https:"),
        "nothing is asked for or linked to"
    );
}
