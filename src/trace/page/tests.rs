use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::proto::{CloseReason, ConnId};
use crate::reactor::{AcceptPause, Close, Liveness, Note, Ready, Refusal};
use crate::trace::{Event, Fault, Place, SocketPicture, Stream, Subject, World};

const ID: ConnId = ConnId { index: 0, generation: 7 };
const C1: Stream = Stream(1);

/// Something of every kind that there is, with each of its outcomes.
fn every_event() -> Vec<Event> {
    let peer =
        Liveness { silent_for: Duration::from_secs(61), unanswered: 2, owes_acknowledgement: true };
    let faults = [Fault::WOULD_BLOCK, Fault::INTERRUPTED, Fault(libc::ECONNRESET)];
    let mut events = vec![
        Event::Poll(None),
        Event::Poll(Some(Duration::ZERO)),
        Event::Poll(Some(Duration::from_micros(1_500_400))),
        Event::Ready(Subject::Wake, Ready::READABLE),
        Event::Ready(Subject::Signal, Ready::READABLE),
        Event::Ready(Subject::Listener(0), Ready::READABLE),
        Event::Ready(Subject::Admin(0), Ready::READABLE),
        Event::Ready(Subject::Connection(ID), Ready::READABLE.union(Ready::CLOSED)),
        Event::PollFailed(Fault(libc::EINVAL)),
        Event::Clock(Monotonic::from_nanos(1)),
        Event::Timing(Monotonic::from_nanos(1)),
        Event::Signal(Some(15)),
        Event::Signal(None),
        Event::Listen(Subject::Listener(0), Ok(())),
        Event::Listen(Subject::Listener(0), Err(Fault(libc::ENOSPC))),
        Event::Accept(Subject::Listener(0), Ok((C1, None))),
        Event::Accept(Subject::Listener(0), Err(Fault::WOULD_BLOCK)),
        Event::Accept(Subject::Listener(0), Err(Fault(libc::EMFILE))),
        Event::Register(C1, Subject::Connection(ID), Ok(())),
        Event::Register(C1, Subject::Connection(ID), Err(Fault(libc::ENOSPC))),
        Event::Ready(Subject::Connection(ID), Ready::READABLE.union(Ready::WRITABLE)),
        Event::Shed(Subject::Listener(0), Ok(())),
        Event::Shed(Subject::Listener(0), Err(Fault(libc::EMFILE))),
        Event::Recv { stream: C1, room: 4096, result: Ok(4096) },
        Event::Recv { stream: C1, room: 4096, result: Ok(1) },
        Event::Recv { stream: C1, room: 4096, result: Ok(0) },
        Event::Send { stream: C1, len: 4096, result: Ok(4096) },
        Event::Send { stream: C1, len: 4096, result: Ok(1300) },
        Event::Recv { stream: C1, room: 4096, result: Ok(0) },
        Event::Shutdown(C1, Ok(())),
        Event::Shutdown(C1, Err(Fault(libc::ENOTCONN))),
        Event::Liveness(C1, Ok(peer)),
        Event::Liveness(C1, Err(Fault(libc::EINVAL))),
        Event::Probe(C1),
        Event::RandomBelow { limit: 10, drawn: 3 },
        Event::FillRandom(32, Ok(())),
        Event::FillRandom(32, Err(Fault(libc::EAGAIN))),
    ];
    for fault in faults {
        events.push(Event::Recv { stream: C1, room: 4096, result: Err(fault) });
        events.push(Event::Send { stream: C1, len: 4096, result: Err(fault) });
    }
    let notes = [
        Note::Command("drain now".to_owned()),
        Note::Killed(ID),
        Note::Tick(None),
        Note::Due(ID),
        Note::Authenticated(ID, None),
        Note::Closed(ID, CloseReason::PeerFinished),
        Note::Refused(None, Refusal::Suspect),
        Note::Refused(None, Refusal::OverShare),
        Note::Refused(None, Refusal::UntrustedProxy),
        Note::Opened(ID, None),
        Note::Proxied(ID, None),
        Note::SetupFailed(None, Fault(libc::ENOSPC)),
        Note::AcceptPaused(AcceptPause::Full),
        Note::AcceptPaused(AcceptPause::UnauthenticatedFull),
        Note::AcceptPaused(AcceptPause::Error(Fault(libc::EMFILE))),
    ];
    events.extend(notes.map(Event::Note));
    let acts = [
        World::Connects(C1, None),
        World::Sends { stream: C1, taken: 5, offered: 5 },
        World::Sends { stream: C1, taken: 5, offered: 7000 },
        World::SendsUrgent(C1),
        World::Reads(C1, 5),
        World::Finishes(C1),
        World::Resets(C1),
        World::Vanishes(C1, false),
        World::Disconnects(C1, Fault(libc::ETIMEDOUT)),
        World::Arrives(C1, 5),
        World::Injects(Fault(libc::EMFILE)),
        World::Injects(Fault(libc::EINTR)),
        World::Sleeps(Duration::from_secs(1), None),
        World::Sleeps(Duration::from_secs(1), Some(Duration::from_secs(2))),
        World::Passes(Duration::from_secs(1)),
        World::Signals(15),
        World::Says("A remark.".to_owned()),
    ];
    events.extend(acts.map(Event::World));
    events.extend([
        Event::Close(C1, Close::Orderly),
        Event::Close(C1, Close::Reset),
        Event::Ready(Subject::Connection(ID), Ready::READABLE),
    ]);
    events
}

fn steps(events: Vec<Event>) -> Vec<Step> {
    let at = |index: u64| Monotonic::from_nanos(index * 1_000_000);
    events.into_iter().zip(0..).map(|(event, index)| Step { at: at(index), event }).collect()
}

/// A picture in which everything is left undone, which makes the longest captions.
fn picture() -> Picture {
    let socket = SocketPicture {
        stream: C1,
        end: Place::Open,
        unread: 1_234_567,
        window: 2_000_000,
        under_way: 3,
        ended: true,
        urgent: true,
        edge: false,
        room_owed: false,
        readiness: Ready::READABLE,
        unsent: 5,
        capacity: 2_000_000,
        failed: false,
        client_reset: false,
    };
    Picture { queue: vec![Stream(2), Stream(3)], listener_edge: false, sockets: vec![socket] }
}

fn film(events: Vec<Event>, picture: Option<&Picture>) -> Film {
    let mut film = Film::of_server();
    for step in steps(events) {
        film.step(&step, Beside { picture, ..Beside::default() }, true);
    }
    film
}

/// The data in a page.
fn data(html: &str) -> Value {
    let (_, rest) = html.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn every_event_has_a_caption_of_at_most_25_words() {
    let (all, known) = (every_event(), picture());
    for seen in [None, Some(&known)] {
        let film = film(all.clone(), seen);
        for ([caption, raw, why], event) in film.texts.iter().zip(&all) {
            let words = caption.split_whitespace().count();
            assert!((2..=25).contains(&words), "{words} words: {caption}");
            assert!(caption.ends_with(['.', '?']), "{caption}");
            assert!(!raw.is_empty() && !why.is_empty(), "{event:?}");
        }
    }
}

#[test]
fn a_caption_says_what_the_loop_cannot_know() {
    let known = picture();
    let film = film(
        vec![
            Event::Recv { stream: C1, room: 4096, result: Ok(4096) },
            Event::World(World::Sleeps(Duration::from_secs(1), None)),
        ],
        Some(&known),
    );
    assert_eq!(
        film.texts[0][0],
        "The loop receives 4,096 bytes from c1. The kernel has 1,234,567 more."
    );
    assert_eq!(
        film.texts[1][0],
        "The loop sleeps. 2 clients wait in the accept queue, and no event is to come."
    );
}

#[test]
fn text_of_others_cannot_leave_its_place() {
    let evil = "</script><!-- \u{202e}\u{2028} &amp; \"'\u{1b}[2J";
    let events = vec![
        Event::World(World::Says(evil.to_owned())),
        Event::Note(Note::Command(evil.to_owned())),
    ];
    let page = Page { title: evil.to_owned(), introduction: evil.to_owned(), ..Page::default() };
    let film = film(events.clone(), None);
    let html = page.of_film(&film, evil.to_owned());
    assert_eq!(html.matches("</script>").count(), 2, "the data's end and the program's");
    assert!(!html.contains("<!--") && !html.contains(['\u{202e}', '\u{2028}', '\u{1b}']));
    assert!(
        html.contains("&lt;/script&gt;&lt;!-- \\u{202e}\\u{2028} &amp;amp; &quot;'\\u{1b}[2J"),
        "{}",
        &html[..900]
    );
    assert!(data(&html)["runs"][0]["end"].as_str().unwrap().starts_with("</script><!-- "));
    let named = Run { name: evil.to_owned(), steps: steps(events), ..Run::default() };
    let html = Page { runs: vec![named], ..Page::default() }.to_html();
    assert_eq!(html.matches("</script>").count(), 2);
}

#[test]
fn a_page_asks_no_other_computer_for_anything() {
    let html = Page::default().of_film(&film(every_event(), None), String::new());
    assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("url("));
    for word in
        ["fetch(", "XMLHttpRequest", "import ", "@import", "<link", "<img", " src=", "innerHTML"]
    {
        assert!(!html.contains(word), "{word}");
    }
    assert!(html.contains("default-src 'none'; style-src 'sha256-"));
}

#[test]
fn what_is_not_shown_is_followed_all_the_same() {
    let all = every_event();
    let mut part = Film::of_server();
    for (index, step) in steps(all.clone()).iter().enumerate() {
        part.step(step, Beside::default(), index >= 30);
    }
    let whole = film(all, None);
    assert_eq!(part.texts, whole.texts[30..]);
    assert_eq!(part.before, whole.before);
    let html = Page::default().of_film(&part, String::new());
    let overview = &data(&html)["runs"][0]["overview"];
    assert_eq!(overview["text"], "Turns 3 to 3 of 3 are on this page; the others are left out.");
    assert!(data(&Page::default().of_film(&whole, String::new()))["runs"][0]["overview"].is_null());
}

#[test]
fn a_long_run_has_a_short_overview() {
    let mut film = Film::of_server();
    for step in steps(vec![Event::Poll(None); 10_000]) {
        film.step(&step, Beside::default(), film.parts_len() == 0);
    }
    assert!((100..=200).contains(&film.parts_len()), "{}", film.parts_len());
}

#[test]
fn every_step_of_the_server_is_at_a_line_of_its_turn() {
    let (all, code) = (every_event(), turn::code());
    let film = film(all.clone(), None);
    let lines = code.first..code.first + u32::try_from(code.text.lines().count()).unwrap();
    for (step, event) in film.steps.iter().zip(&all) {
        match step[2].as_u64() {
            None => assert!(matches!(event, Event::World(_)), "{event:?}"),
            Some(line) => assert!(lines.contains(&u32::try_from(line).unwrap()), "{event:?}"),
        }
    }
    let at = |index: usize| {
        let line = u32::try_from(film.steps[index][2].as_u64().unwrap()).unwrap() - code.first;
        code.text.lines().nth(line as usize).unwrap().trim()
    };
    assert!(at(0).contains("self.reactor.poll("));
    let accept = all.iter().position(|event| matches!(event, Event::Accept(..))).unwrap();
    assert_eq!(at(accept), "self.accept()?;");
}

#[test]
fn a_page_of_another_loop_has_its_marks_and_no_code() {
    let known = picture();
    let mut film = Film::of_loop();
    for (step, number) in steps(vec![Event::Poll(None), Event::Probe(C1)]).iter().zip(1..) {
        film.step(step, Beside { picture: Some(&known), ..Beside::default() }, true);
        if number == 1 {
            film.mark(STOP, "Nothing will wake it");
        }
    }
    let html = Page::default().of_film(&film, String::new());
    let run = &data(&html)["runs"][0];
    assert_eq!(run["marks"][0]["step"], 0);
    assert_eq!(run["code"]["lines"].as_array().unwrap().len(), 0);
    assert_eq!(run["simulated"], true);
    assert!(html.contains("<b>[Nothing will wake it]</b>"));
}
