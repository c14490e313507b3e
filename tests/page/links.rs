//! Stories, exercises, programs and documents name each other, and every link leads somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use saltecho::lab::Exercise;
use saltecho::trace::page::{Page, Story};

use crate::common::pages::read;
use crate::content::page;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every page of text in the repository, by its path from the root.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    let mut directories = vec![PathBuf::from(ROOT)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if name.ends_with(".md") {
                pages.push(path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    pages.sort();
    pages
}

/// The targets of a page's links, without those in code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let blocks = text.split("```").step_by(2);
    for span in blocks.flat_map(|block| block.split('`').step_by(2)) {
        let targets = span.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        links.extend(targets.map(|(target, _)| target.to_owned()));
    }
    links
}

/// The names of a page's headings in links, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            heading.chars().filter(|char| char.is_alphanumeric() || "-_".contains(*char)).collect()
        })
        .collect()
}

/// Whether a part of docs/loop.html's address leads to a story, to one of its runs and to a mark.
fn is_place(page: &Page, place: &str) -> bool {
    let mut parts = place.split('/');
    let story = parts.next().and_then(|name| page.stories.iter().find(|story| story.name == name));
    let (Some(story), side, mark) = (story, parts.next(), parts.next()) else { return false };
    let run = match side {
        Some("mistake") => story.mistake,
        Some("cure") => story.cure,
        Some(_) => return false,
        None => return true,
    };
    mark.is_none_or(|mark| page.runs[run].mark(mark).is_some()) && parts.next().is_none()
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let page = page();
    let mut to_stories = 0;
    for path in pages() {
        for link in links(&read(&path)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => Path::new(ROOT).join(&path),
                file => Path::new(ROOT).join(&path).parent().unwrap().join(file),
            };
            assert!(target.exists(), "{path}: no file for {link}");
            if anchor.is_empty() {
                continue;
            }
            let found = if file.ends_with("loop.html") {
                to_stories += 1;
                is_place(&page, anchor)
            } else {
                anchors(&fs::read_to_string(&target).unwrap()).contains(anchor)
            };
            assert!(found, "{path}: nothing is called {anchor} in {link}");
        }
    }
    assert!(to_stories > 50, "{to_stories} links to stories");
}

#[test]
fn every_link_of_the_stories_leads_somewhere() {
    let page = page();
    for story in &page.stories {
        let programs = story.programs.iter().map(|(_, path)| path);
        for path in [&story.source.0, &story.exercise.1].into_iter().chain(programs) {
            assert!(Path::new(ROOT).join(path).exists(), "{}: {path}", story.name);
        }
    }
    let html = page.to_html();
    for link in html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let found = match link.strip_prefix('#') {
            Some(place) => is_place(&page, place),
            None => Path::new(ROOT).join("docs").join(link).exists(),
        };
        assert!(found, "{link}");
    }
}

/// The names of stories in links to the page.
fn named(text: &str) -> BTreeSet<String> {
    let places = text.split("loop.html#").skip(1);
    places
        .map(|rest| {
            rest.chars().take_while(|char| char.is_ascii_lowercase() || *char == '-').collect()
        })
        .collect()
}

fn names<'a>(stories: impl Iterator<Item = &'a Story>) -> BTreeSet<String> {
    stories.map(|story| story.name.clone()).collect()
}

#[test]
fn every_exercise_names_its_stories_and_is_named_by_them() {
    let page = page();
    for exercise in Exercise::all() {
        let of_exercise = |story: &&Story| {
            story.exercise.0.starts_with(&format!("exercise {},", exercise.number))
        };
        let expected = names(page.stories.iter().filter(of_exercise));
        let path = &page.stories.iter().find(of_exercise).expect("it has a story").exercise.1;
        assert_eq!(named(&read(path)), expected, "{path}");
    }
    let overview = named(&read("lab/README.md"));
    assert_eq!(overview, names(page.stories.iter()), "lab/README.md");
}

/// Each program with the stories about it; its head and its section in docs/PATTERNS.md name them and
/// their exercises.
#[test]
fn every_program_names_its_stories_and_is_named_by_them() {
    let page = page();
    let patterns = read("docs/PATTERNS.md");
    let mut sections = 0;
    for section in patterns.split("\n## ").skip(1) {
        let command = section.split_once("$ cargo study ").expect("it runs a program").1;
        let program = command.split_whitespace().next().unwrap();
        let about = |story: &&Story| story.programs.iter().any(|(name, _)| name == program);
        let stories: Vec<&Story> = page.stories.iter().filter(about).collect();
        let expected = names(stories.iter().copied());
        let exercises: BTreeSet<String> =
            stories.iter().map(|story| story.exercise.1.replace("/README.md", "")).collect();
        assert_eq!(named(section), expected, "docs/PATTERNS.md, {program}");
        let linked = links(section).into_iter().filter_map(|link| {
            Some(link.strip_prefix("../")?.strip_suffix("/README.md")?.to_owned())
        });
        assert_eq!(linked.collect::<BTreeSet<_>>(), exercises, "docs/PATTERNS.md, {program}");

        let path = &stories[0].programs.iter().find(|(name, _)| name == program).unwrap().1;
        let text = read(path);
        let head = text.lines().map_while(|line| line.strip_prefix("//!"));
        let head = head.collect::<Vec<_>>().join("");
        assert_eq!(named(&head.replace(" #", " loop.html#")), expected, "{path}");
        let practiced = head.split("`lab/exercises/").skip(1);
        let practiced =
            practiced.map(|rest| format!("lab/exercises/{}", rest.split("/`").next().unwrap()));
        assert_eq!(practiced.collect::<BTreeSet<_>>(), exercises, "{path}");
        sections += 1;
    }
    assert_eq!(sections, 13);
}
