//! The HTML report.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::needs::CHROMIUM;
use crate::common::run::Script;
use saltecho::load::report::{Comparison, LoadLog, Report, Upgrade, merge};
use saltecho::load::{ErrorKind, Mode, Record, StateCounts};

/// Fails unless elements nest and every attribute is closed.
#[track_caller]
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>").expect("the page says what it is");
    for part in body.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "{text:?}");
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "before {text:?}"),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

/// The page of a report, checked to be well-formed and self-contained.
#[track_caller]
fn page(report: &Report) -> String {
    sound(report.to_html())
}

/// Fails unless a page is well-formed and self-contained.
#[track_caller]
fn sound(page: String) -> String {
    assert_well_formed(&page);
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // In drawings, not in text: "infinite" may be a word.
    for numbers in page.split('"').skip(1).step_by(2) {
        assert!(!numbers.contains("NaN") && !numbers.contains("inf"), "{numbers}");
    }
    page
}

#[test]
fn every_mode_has_its_charts() {
    for mode in [Mode::Echo, Mode::Connect, Mode::Idle] {
        let mut script = Script::new(mode);
        script.errors = vec![(ErrorKind::Reset, 3)];
        let report = script.report();
        let page = page(&report);
        assert_eq!(page.matches("<svg").count(), 4, "{mode:?}");
        for (series, _) in report.recorded_series() {
            let name = series.as_str();
            assert!(page.contains(&format!("<tr><th>{name}</th>")), "{mode:?}: {name}");
            assert!(page.contains(&format!("<span>{name}</span>")), "{mode:?}: {name}");
        }
        assert!(page.contains("<tr><th>reset</th><td>3</td></tr>"));
        assert!(page.contains("commit 0123456789ab") && page.contains("2026-09-21 14:13:20 UTC"));
        let (word, _) = report
            .verdict_line()
            .split_once(": ")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!(page.contains(&format!("<b>{word}</b>")), "{word}");
    }
}

/// The upgrades of a run at these moments, in seconds.
fn upgraded(moments: &[u64]) -> String {
    let mut report = Script::new(Mode::Echo).report();
    report.upgrades = (2..)
        .zip(moments)
        .map(|(generation, at)| Upgrade {
            at: Duration::from_secs(*at),
            generation,
            freeze: Duration::from_millis(38),
        })
        .collect();
    page(&report)
}

#[test]
fn upgrades_are_marked_in_the_charts_over_time() {
    let none = upgraded(&[]);
    assert!(!none.contains("class=\"mark") && !none.contains("upgrade of the server"));
    let one = upgraded(&[3]);
    assert_eq!(one.matches("<line class=\"mark\"").count(), 3);
    assert_eq!(one.matches("<span>upgrade of the server</span>").count(), 3);
    assert_eq!(one.matches(">generation 2</text>").count(), 3);
    let tooltip = "<title>generation 2 at 3.0 s (frozen for 38.0 ms)</title>";
    assert_eq!(one.matches(tooltip).count(), 3, "{one}");
    // Of labels that would cover each other the first is shown; each line has its tooltip.
    let many = upgraded(&[3; 100]);
    assert_eq!(many.matches("<line class=\"mark\"").count(), 300);
    assert_eq!(many.matches("<text class=\"label\"").count(), 3);
    // At the right edge, and behind it: an upgrade that was seen by the last look.
    let last = upgraded(&[100_000]);
    assert_eq!(last.matches("text-anchor=\"end\">generation 2</text>").count(), 3);
}

#[test]
fn untrusted_text_is_escaped() {
    let mut report = Script::new(Mode::Echo).report();
    report.generators[0].program.command.push("<script>alert(\"1\")</script>".to_owned());
    report.warnings.push("<b> & more".to_owned());
    report.generators[0].machine.host = Some("\x1b[2J\u{202e}".to_owned());
    report.generators[0].program.version = "1\x07".to_owned();
    let page = page(&report);
    assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{page}");
    assert!(page.contains("saltecho 1\\x07, commit"));
    assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;"));
    assert!(page.contains("Warning: &lt;b&gt; &amp; more."));
}

/// Two generators with different plans, merged.
fn merged() -> Report {
    let one = Script::new(Mode::Echo);
    let mut two = one.clone();
    two.plan.connections = 30;
    two.plan.size = 1024.into();
    let logs = [("a.hlog", one), ("b.hlog", two)];
    merge(logs.map(|(name, script)| LoadLog::parse(name, &script.log().0).unwrap()).into()).unwrap()
}

#[test]
fn several_generators_are_one_page() {
    let page = page(&merged());
    assert!(page.contains("<p class=\"sum\">2 generators merged; open model: 2,000 messages/s"));
    for name in ["a.hlog", "b.hlog"] {
        assert!(page.contains(&format!("<h3>{name} on loader</h3>\n<pre>saltecho load")), "{name}");
    }
    assert_eq!(page.matches("commit 0123456789ab").count(), 2);
    assert_eq!(page.matches("<svg").count(), 4);
}

#[test]
fn two_loads_are_compared_on_one_page() {
    let (one, two) = (Script::new(Mode::Echo).report(), merged());
    let same = sound(Comparison { old: &one, new: &one }.to_html());
    assert_eq!(same.matches("<svg").count(), 4);
    assert!(
        same.contains("cannot show a significant difference") && !same.contains("different loads")
    );
    let ratios = same.split("<th>new/old</th>").nth(3).unwrap().split("</tr>").next().unwrap();
    assert_eq!(ratios, "<td>1.000</td>".repeat(7), "the number and six times of echo");

    let both = sound(Comparison { old: &one, new: &two }.to_html());
    for words in ["<h2>Old</h2>", "<h2>New</h2>", "<h3>b.hlog on loader</h3>", "different loads"] {
        assert!(both.contains(words), "{words}");
    }
    assert_eq!(both.matches("<span>old</span>").count(), 4);

    let mut script = Script::new(Mode::Echo);
    script.plan.spin = Duration::from_micros(100);
    let spun = script.report();
    assert!(sound(Comparison { old: &one, new: &spun }.to_html()).contains("different loads"));

    let mut script = Script::new(Mode::Echo);
    script.seconds = 0;
    let nothing = script.report();
    let half = sound(Comparison { old: &nothing, new: &one }.to_html());
    assert!(half.contains("<span>new</span>") && !half.contains("<span>old</span>"));
    let none = sound(Comparison { old: &nothing, new: &nothing }.to_html());
    assert_eq!(none.matches("Nothing was timed.").count(), 3);
}

#[test]
fn short_and_empty_runs_are_drawn() {
    for mode in [Mode::Echo, Mode::Connect, Mode::Idle] {
        for seconds in [0, 1] {
            let mut script = Script::new(mode);
            script.seconds = seconds;
            page(&script.report());
        }
        let mut nothing = Script::new(mode).report();
        nothing.record = Record::new();
        nothing.seconds.clear();
        let page = page(&nothing);
        assert_eq!(page.matches("Nothing was timed.").count(), 2);
        assert_eq!(page.matches("<svg").count(), 0);
    }
}

#[test]
fn unknown_states_are_not_drawn() {
    let mut report = Script::new(Mode::Echo).report();
    report.seconds.iter_mut().for_each(|second| second.states = StateCounts::default());
    let page = page(&report);
    assert!(page.contains("Connection states are unknown."));
    assert_eq!(page.matches("<svg").count(), 3);
}

#[test]
fn a_browser_draws_it() {
    let Some(mut browser) = CHROMIUM.find() else { return };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let html = directory.join("load-report.html");
    fs::write(&html, Script::new(Mode::Echo).report().to_html()).unwrap();
    let png = directory.join("load-report.png");
    let _ = fs::remove_file(&png);
    let profile = tempfile::tempdir().unwrap();
    let output = browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,1600"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--screenshot={}", png.display()))
        .arg(format!("file://{}", html.display()))
        .output()
        .unwrap();
    let size = fs::metadata(&png).map_or(0, |metadata| metadata.len());
    assert!(size > 20_000, "{size} bytes: {}", String::from_utf8_lossy(&output.stderr));
}
