use saltecho::trace::page::{Run, STOP};
use serde_json::{Value, json};

use crate::common::needs::CHROMIUM;
use crate::content::{captions, page};
use crate::devtools::Browser;
use crate::replayed::clients;

const FILE: &str = concat!("file://", env!("CARGO_MANIFEST_DIR"), "/docs/loop.html");

/// The page in a browser, if there is one.
fn open(fragment: &str) -> Option<Browser> {
    let mut browser = Browser::start(&CHROMIUM.find()?);
    browser.open(&format!("{FILE}{fragment}"));
    Some(browser)
}

/// Ends a test: nothing but the file was asked for, and nothing went wrong in the page.
fn close(mut browser: Browser) {
    let (requests, complaints) = browser.account();
    assert!(complaints.is_empty(), "{complaints:?}");
    for url in requests {
        assert!(url.starts_with(FILE) || url == "about:blank", "{url}");
    }
}

fn caption(browser: &mut Browser) -> String {
    browser.value("document.getElementById('caption').textContent").as_str().unwrap().to_owned()
}

fn place(browser: &mut Browser) -> String {
    browser.value("document.body.dataset.at").as_str().unwrap().to_owned()
}

/// All that the player shows.
fn player(browser: &mut Browser) -> Value {
    browser.value("document.getElementById('player').outerHTML")
}

/// What the table has of each client at each step of the run that is chosen, by the slider.
const WALK: &str = r##"(() => {
    const range = document.getElementById("range"), all = [];
    for (let step = 0; step <= Number(range.max); step++) {
        range.value = step;
        range.dispatchEvent(new Event("input"));
        const rows = [...document.querySelectorAll("#conns tbody tr:not(.gap)")].map((row) => {
            const number = (cell) => Number((cell.childNodes[cell.querySelector(".meter") ? 1 : 0] || {}).textContent.replaceAll(",", ""));
            return {
                who: row.cells[0].firstChild.textContent,
                told: [...row.cells[1].children].map((bit) => bit.classList.contains("on") ? bit.textContent : "-").join(""),
                unread: number(row.cells[3]), put: number(row.cells[6]), got: number(row.cells[7]),
            };
        });
        all.push({ caption: document.getElementById("caption").textContent, at: document.body.dataset.at,
            spoken: range.getAttribute("aria-valuetext"), rows });
    }
    return all;
})()"##;

fn compare(browser: &mut Browser, html: &str, run: &Run) {
    let (shown, captions) = (browser.value(WALK), captions(html, run));
    let shown = shown.as_array().unwrap();
    assert_eq!(shown.len(), run.steps.len(), "{}", run.name);
    for (index, step) in shown.iter().enumerate() {
        let at = format!("{}/{}", run.name, index + 1);
        assert_eq!(step["at"], at);
        assert_eq!(step["caption"], captions[index], "{at}");
        let spoken = format!("step {} of {}: {}", index + 1, run.steps.len(), captions[index]);
        assert_eq!(step["spoken"], spoken);
        let expected = clients(run, index);
        let rows = step["rows"].as_array().unwrap();
        assert_eq!(rows.len(), expected.len(), "{at}");
        for (row, client) in rows.iter().zip(expected) {
            assert_eq!(row["who"], client.stream.to_string(), "{at}");
            assert_eq!(row["told"], client.told, "{at}");
            assert_eq!(
                (&row["put"], &row["got"]),
                (&json!(client.put), &json!(client.got)),
                "{at}"
            );
            if let Some(unread) = client.unread {
                assert_eq!(row["unread"], unread, "{at}");
            }
        }
    }
}

#[test]
fn every_step_of_every_story_shows_the_recorded_state() {
    let Some(mut browser) = open("") else { return };
    let page = page();
    let html = page.to_html();
    for story in &page.stories {
        let link =
            format!("document.querySelector('nav a[data-story=\"{}\"]').click()", story.name);
        browser.value(&link);
        for (side, run) in
            [&page.runs[story.mistake], &page.runs[story.cure]].into_iter().enumerate()
        {
            browser.value(&format!("document.querySelector('[data-side=\"{side}\"]').click()"));
            compare(&mut browser, &html, run);
        }
    }
    close(browser);
}

#[test]
fn it_opens_one_step_before_the_first_stop_with_the_question() {
    let Some(mut browser) = open("") else { return };
    let page = page();
    let (story, run) = (&page.stories[0], &page.runs[0]);
    let stop = run.mark(STOP).unwrap();
    assert_eq!(place(&mut browser), format!("{}/{stop}", run.name));
    let question = browser.value("document.querySelector('.question').textContent");
    assert_eq!(question, *story.question);
    for (index, answer) in story.answers.iter().enumerate() {
        browser.value(&format!("document.querySelectorAll('.answers button')[{index}].click()"));
        let reply = browser.value("document.querySelector('.reply').textContent");
        let reply = reply.as_str().unwrap();
        assert!(reply.starts_with(if answer.right { "✓ Right." } else { "✗ Not so." }), "{reply}");
        assert!(reply.contains(&answer.reply), "{reply}");
    }
    browser.value("document.querySelector('.reply button').click()");
    let rule = browser.value("document.querySelector('.rule').textContent");
    assert!(rule.as_str().unwrap().contains(&story.rule), "{rule}");
    assert_eq!(browser.value("document.querySelector('.gap') !== null"), true);
    close(browser);
}

#[test]
fn deep_links_lead_to_their_step_and_the_address_follows() {
    let Some(mut browser) = open("#partial-write/mistake/stop") else { return };
    let page = page();
    let html = page.to_html();
    for story in &page.stories {
        for run in [&page.runs[story.mistake], &page.runs[story.cure]] {
            let stop = run.mark(STOP).unwrap();
            for (fragment, step) in
                [(format!("{}/stop", run.name), stop), (format!("{}/3", run.name), 2)]
            {
                browser.value(&format!("location.hash = '#{fragment}'"));
                // The event for the new address comes before the next task.
                browser.call("Runtime.evaluate", &json!({
                    "expression": "new Promise((done) => setTimeout(done))", "awaitPromise": true,
                }));
                assert_eq!(place(&mut browser), format!("{}/{}", run.name, step + 1));
                assert_eq!(caption(&mut browser), captions(&html, run)[step]);
                assert_eq!(browser.value("location.hash"), format!("#{fragment}"));
            }
        }
    }
    close(browser);
}

#[test]
fn keys_travel_there_and_back() {
    let Some(mut browser) = open("#one-read/mistake/12") else { return };
    browser.value("document.getElementById('stage').focus()");
    let begin = player(&mut browser);
    for (there, back, shift) in
        [("ArrowRight", "ArrowLeft", false), ("ArrowRight", "ArrowLeft", true), ("m", "m", false)]
    {
        browser.press(there, shift);
        assert_ne!(player(&mut browser), begin, "{there}");
        browser.press(back, shift);
        if shift {
            // A turn back is its beginning.
            browser.value("location.hash = '#one-read/mistake/12'");
        }
        assert_eq!(place(&mut browser).split('/').next(), Some("one-read"));
    }
    browser.press("Home", false);
    assert_eq!(place(&mut browser), "one-read/mistake/1");
    browser.press("]", false);
    browser.press("]", false);
    assert_eq!(place(&mut browser), "one-read/mistake/19");
    browser.press("[", false);
    assert_eq!(place(&mut browser), "one-read/mistake/18");
    browser.press("End", false);
    assert_eq!(place(&mut browser), "one-read/mistake/19");
    browser.press("m", false);
    assert_eq!(place(&mut browser), "one-read/cure/21", "from stop to stop");
    browser.press("?", false);
    assert_eq!(browser.value("document.getElementById('help').hidden"), false);
    // Play is a state that one key ends.
    browser.press("Home", false);
    browser.press(" ", false);
    assert_eq!(
        browser.value("document.querySelector('[data-do=play]').getAttribute('aria-label')"),
        "Pause"
    );
    assert_eq!(
        browser.value("document.getElementById('caption').getAttribute('aria-live')"),
        "polite"
    );
    browser.press(" ", false);
    assert_eq!(
        browser.value("document.querySelector('[data-do=play]').getAttribute('aria-label')"),
        "Play"
    );
    // Without the focus the keys are the page's.
    browser.value("document.activeElement.blur()");
    let before = place(&mut browser);
    browser.press("m", false);
    assert_eq!(place(&mut browser), before);
    close(browser);
}

#[test]
fn it_is_light_and_dark_small_printed_and_without_scripts() {
    let Some(mut browser) = open("") else { return };
    let background = "getComputedStyle(document.body).backgroundColor";
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        browser.call("Emulation.setEmulatedMedia", &json!({"features": features}));
        let system = browser.value(background);
        browser.value("document.getElementById('mode').click()");
        let other = browser.value(background);
        browser.value("document.getElementById('mode').click()");
        assert_eq!(browser.value(background), system);
        assert_ne!(system, other);
        seen.push(system);
        assert_eq!(
            browser
                .value("getComputedStyle(document.querySelector('.meter i')).transitionDuration"),
            "0s"
        );
    }
    assert_ne!(seen[0], seen[1]);

    browser.call(
        "Emulation.setDeviceMetricsOverride",
        &json!({
            "width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true,
        }),
    );
    browser.open(FILE);
    assert_eq!(
        browser.value("document.documentElement.scrollWidth"),
        360,
        "no way to scroll sideways"
    );
    let small = browser.value(
        "[...document.querySelectorAll('#controls button, #sides button, .answers button')]
            .map((button) => button.getBoundingClientRect())
            .filter((box) => box.height < 44 || box.width < 44).length",
    );
    assert_eq!(small, 0, "every target has 44 pixels");
    let dock = browser.value("document.getElementById('dock').getBoundingClientRect().bottom");
    assert!(dock.as_f64().unwrap() <= 740.5, "the controls are in view: {dock}");
    browser.call("Emulation.clearDeviceMetricsOverride", &json!({}));

    browser.call("Emulation.setEmulatedMedia", &json!({"media": "print"}));
    assert_eq!(
        browser.value("getComputedStyle(document.getElementById('player')).display"),
        "none"
    );
    let pdf = browser.call("Page.printToPDF", &json!({}));
    assert!(pdf["data"].as_str().unwrap().starts_with("JVBERi0"), "a PDF in base64");
    browser.call("Emulation.setEmulatedMedia", &json!({"media": ""}));

    browser.call("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    browser.open(FILE);
    assert_eq!(browser.value("document.getElementById('player').hidden"), true);
    let open =
        browser.value("[...document.querySelectorAll('details')].every((list) => list.open)");
    assert_eq!(open, true, "every list is open");
    close(browser);
}
