//! Each story runs as written: the mistake fails at its step, and the cure does not fail.

use lab::stories::STORIES;
use saltecho::lab::Exercise;

#[test]
fn each_story_has_its_mistake_and_its_cure() {
    for story in &STORIES {
        let told = story.tell();
        let name = story.name;
        let (code, step, note) = told.wrong.fault.as_ref().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(*code, story.code, "{name}: {note}");
        assert!(told.wrong.steps[*step].is_call && !note.is_empty(), "{name}");
        assert_eq!(told.cured.fault, None, "{name}");
        assert!(Exercise::find(story.exercise).is_ok());
        let begin = told.wrong.steps.iter().zip(&told.cured.steps);
        let same = begin.take_while(|(wrong, cured)| wrong == cured).count();
        assert!(same > 2 && same <= *step, "{name}: the runs part at step {same} of {step}");
    }
}

/// The file that a story names is there, and short of room for it on a page.
#[test]
fn each_story_names_a_file_and_is_brief() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for story in &STORIES {
        assert!(std::path::Path::new(root).join(story.source).exists(), "{}", story.source);
        assert!(story.belief.len() <= 70 && story.rule.len() <= 90, "{}", story.name);
    }
    let mut names: Vec<_> = STORIES.iter().map(|story| story.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), STORIES.len());
}
