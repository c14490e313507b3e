//! The stories and the exercises are about the same mistakes.

use lab::{WRONG, stories};
use saltecho::lab::{Code, Exercise};

/// A mistake of a story is one that the judge of its exercise finds in the complete loop, too.
#[test]
fn each_story_is_about_a_fault_of_its_exercise() {
    for (story, exercise, code) in stories::faults() {
        assert!(Exercise::find(exercise).is_ok(), "{story}: {exercise}");
        let Some(code) = code else { continue };
        let known = WRONG.iter().any(|(name, _, fault)| (*name, *fault) == (exercise, code));
        assert!(known, "{story}: no mistake in {exercise} is {code}");
    }
}

#[test]
fn each_exercise_has_a_story() {
    for exercise in Exercise::all() {
        assert!(stories::about(exercise.name, Code::Ended).is_some(), "{exercise}");
    }
    assert_eq!(stories::about("ends", Code::UnreadEnd), Some("end-behind-data"));
    assert_eq!(stories::about("ends", Code::ClosedUnread), Some("hang-up"));
}
