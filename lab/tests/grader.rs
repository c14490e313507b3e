//! The grader's own tests: it passes loops that are right, and names the fault of each that is wrong.

use lab::{Mistake, TASKS, WRONG, model};
use saltecho::lab::{Code, Exercise, Verdict, exhaust, grade, run};

fn judge(exercise: &'static Exercise, seeds: u64, mistake: Option<Mistake>) -> Verdict {
    grade(exercise, 0..seeds, |kernel| {
        let rules = *kernel.rules();
        model::serve(kernel, &mut (), &rules, mistake)
    })
}

#[test]
fn the_complete_loop_passes_every_exercise() {
    for exercise in Exercise::all() {
        // So few are run of a program in another language.
        let verdict = judge(exercise, 100, None);
        assert!(verdict.is_pass(), "{verdict}");
        let verdict = judge(exercise, 500, None);
        assert!(verdict.is_pass(), "{verdict}");
    }
}

/// What only a fault of the kernel causes does not occur, which is no failure.
#[test]
fn the_complete_loop_stands_every_short_script() {
    for exercise in Exercise::all() {
        let verdict = exhaust(exercise, 3, |kernel| {
            let rules = *kernel.rules();
            model::serve(kernel, &mut (), &rules, None)
        });
        assert!(matches!(verdict, Verdict::Pass { .. } | Verdict::Unknown { .. }), "{verdict}");
    }
    let drain = Exercise::find("drain").expect("it exists");
    let verdict = exhaust(drain, 2, |kernel| {
        let rules = *kernel.rules();
        model::serve(kernel, &mut (), &rules, Some(Mistake::ReadOnce))
    });
    assert!(verdict.to_string().starts_with("FAIL 3-drain, short script "), "{verdict}");
}

#[test]
fn each_mistake_fails_with_its_own_code() {
    for (name, mistake, code) in WRONG {
        let exercise = Exercise::find(name).expect("an exercise has this name");
        let verdict = judge(exercise, 2000, Some(mistake));
        assert_eq!(verdict.code(), Some(code), "{mistake:?}: {verdict}");
    }
}

/// `.ci/run` repeats this with 10,000 seeds.
#[test]
fn each_solution_passes() {
    for (exercise, task) in Exercise::all().iter().zip(TASKS) {
        let verdict = grade(exercise, 0..500, |kernel| {
            let rules = *kernel.rules();
            (task.solution)(kernel, &mut (), &rules)
        });
        assert!(verdict.is_pass(), "{verdict}");
    }
}

#[test]
fn each_skeleton_fails_for_the_stated_reason() {
    assert_eq!(TASKS.len(), Exercise::all().len());
    for (exercise, task) in Exercise::all().iter().zip(TASKS) {
        let verdict = grade(exercise, 0..2000, |kernel| {
            let rules = *kernel.rules();
            (task.skeleton)(kernel, &mut (), &rules)
        });
        assert_eq!(verdict.code(), Some(task.code), "{verdict}");
        let code = format!("[{}]", task.code);
        let section = task.text.split_once("## What is tested").expect("the page has this part").1;
        assert!(section.contains(&code), "{exercise}'s page does not name {code}");
        let minutes = format!("{} minutes", exercise.minutes);
        assert!(task.text.contains(&minutes), "{exercise}'s page says nothing of {minutes}");
        assert!(task.text.contains("\n## Notes\n") && task.text.contains('#'), "{exercise}");
    }
}

/// A verdict is a function of the seed and the loop.
#[test]
fn a_verdict_repeats_to_the_letter() {
    for (exercise, task) in Exercise::all().iter().zip(TASKS) {
        let mut verdicts = (0..2).map(|_| {
            let verdict = grade(exercise, 0..300, |kernel| {
                let rules = *kernel.rules();
                (task.skeleton)(kernel, &mut (), &rules)
            });
            verdict.to_string()
        });
        assert_eq!(verdicts.next(), verdicts.next());
    }
}

#[test]
fn a_failure_that_does_not_repeat_has_a_verdict_of_its_own() {
    let (drain, mut runs) = (Exercise::find("drain").expect("it exists"), 0);
    let verdict = grade(drain, 0..10, |kernel| {
        runs += 1;
        let rules = *kernel.rules();
        model::serve(kernel, &mut (), &rules, (runs == 1).then_some(Mistake::ReadOnce))
    });
    assert_eq!(verdict.code(), Some(Code::UnreadInput));
    let text = verdict.to_string();
    assert!(text.starts_with("UNSTEADY 3-drain, seed 0\nerror[L02]: "), "{text}");
    assert!(text.contains("the same seed gives the same run"), "{text}");
}

/// The verdict of a fault that the kernel has a part in names no more of the kernel's than it takes.
#[test]
fn faults_of_the_kernel_are_shrunk_one_by_one() {
    for (name, mistake, most) in [
        ("stale-events", Mistake::ReuseTokens, 1),
        ("first-echo", Mistake::CloseAtWouldBlock, 1),
        ("bad-night", Mistake::InterruptedEnds, 1),
    ] {
        let exercise = Exercise::find(name).expect("an exercise has this name");
        let Verdict::Fail(failure) = judge(exercise, 2000, Some(mistake)) else {
            panic!("{mistake:?} passes {name}");
        };
        let strikes = failure.script.strikes.as_deref().unwrap_or_default();
        assert!(strikes.len() <= most, "{failure}");
        let rules = exercise.rules;
        let again = run(&failure.script, rules, |kernel| {
            model::serve(kernel, &mut (), &rules, Some(mistake))
        });
        let (code, ..) = again.expect("no wire is involved").fault.expect("it fails again");
        assert_eq!(code, failure.code);
    }
}

/// The verdict that README shows is the skeleton's.
#[test]
fn the_documented_verdict_is_true() {
    let drain = Exercise::find("drain").expect("it exists");
    let skeleton = TASKS[drain.number - 1].skeleton;
    let verdict = grade(drain, 0..10_000, |kernel| {
        let rules = *kernel.rules();
        skeleton(kernel, &mut (), &rules)
    });
    assert!(include_str!("../README.md").contains(&verdict.to_string()), "{verdict}");
}
