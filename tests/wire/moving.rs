//! Handlers that go on in another loop, from the state that they saved.

use saltecho::proto::{Answer, Framed, Handler, Identity, Peer, Transform, Upper};

/// Moves nowhere, as it says nothing about it.
struct Still;

impl Handler for Still {
    fn handle(&mut self, _data: &mut [u8]) -> Answer {
        Answer::Nothing
    }
}

impl Transform for Still {
    fn transform(&mut self, _payload: &mut [u8]) {}
}

fn saved(handler: &impl Handler) -> Option<Vec<u8>> {
    let mut state = Vec::new();
    handler.save(&mut state).then_some(state)
}

fn restores(handler: &mut impl Handler, state: &[u8]) -> bool {
    handler.restore(&Peer::default(), state)
}

#[test]
fn handlers_without_state_save_nothing_and_take_nothing_else() {
    assert_eq!(saved(&Upper), Some(Vec::new()));
    assert!(restores(&mut Upper, b""));
    assert!(!restores(&mut Upper, b"x"));
    assert_eq!(saved(&Identity), Some(Vec::new()));
    assert!(restores(&mut Identity, b""));
    assert!(!restores(&mut Identity, b"x"));
}

#[test]
fn a_handler_that_says_nothing_about_it_stays() {
    assert_eq!(saved(&Still), None);
    assert!(!restores(&mut Still, b""));
    let mut framed = Framed::new(Still, None);
    assert_eq!(saved(&framed), None);
    let between_frames = saved(&Framed::new(Upper, None)).unwrap();
    assert!(!restores(&mut framed, &between_frames));
}

#[test]
fn a_frame_goes_on_where_it_was() {
    let mut here = Framed::new(Upper, None);
    assert_eq!(here.handle(&mut b"\0\0\0\x05he".to_owned()), Answer::InPlace);
    let state = saved(&here).unwrap();
    let mut there = Framed::new(Upper, None);
    assert!(!restores(&mut there, &state[1..]), "a state that is cut off");
    assert!(!restores(&mut there, &[&state[..], b"x"].concat()), "a state with more behind it");
    assert!(restores(&mut there, &state));
    let mut rest = *b"llo\0\0\0\x02xy";
    assert_eq!(there.handle(&mut rest), Answer::InPlace);
    assert_eq!(&rest, b"LLO\0\0\0\x02XY");
    let mut unchanged = Framed::new(Identity, None);
    assert!(restores(&mut unchanged, &saved(&Framed::new(Identity, None)).unwrap()));
    assert!(!restores(&mut unchanged, &[&state[..], b"x"].concat()));
}
