//! The grader's own tests: it passes loops that are right, and names the fault of each that is wrong.

use lab::WRONG;
use lab::model::{self, Mistake};
use saltecho::lab::{Exercise, Verdict, grade};

fn judge(exercise: &'static Exercise, seeds: u64, mistake: Option<Mistake>) -> Verdict {
    grade(exercise, 0..seeds, |kernel| {
        let rules = *kernel.rules();
        model::serve(kernel, &mut (), &rules, mistake)
    })
}

#[test]
fn the_complete_loop_passes_every_exercise() {
    for exercise in Exercise::all() {
        let verdict = judge(exercise, 500, None);
        assert!(verdict.is_pass(), "{verdict}");
    }
}

#[test]
fn each_mistake_fails_with_its_own_code() {
    for (name, mistake, code) in WRONG {
        let exercise = Exercise::find(name).expect("an exercise has this name");
        let verdict = judge(exercise, 2000, Some(mistake));
        assert_eq!(verdict.code(), Some(code), "{mistake:?}: {verdict}");
    }
}
