use super::*;

/// The guise of the first connection of a loop with these settings.
fn first(protocol: Protocol, proxied: bool) -> (Guise, Mask) {
    let mut mask = Mask::new(false);
    mask.protocol = protocol;
    mask.draw(Protocol::MAX_RANDOM);
    (Guise::new(&mask, proxied), mask)
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&len.to_be_bytes(), payload].concat()
}

/// A client's frames in a mutual handshake; returns what stands for the payload of the last one.
fn mutual(frames: &[&[u8]]) -> String {
    let (mut guise, mut mask) = first(Protocol::Multiprocessing, false);
    let (mut to, mut len) = (Encoder::default(), 0);
    for real in frames {
        guise.write(&mut mask, &frame(real), &mut to);
        len = real.len();
    }
    String::from_utf8(to.out[to.out.len() - len..].to_vec()).unwrap()
}

#[test]
fn a_digest_is_that_of_the_key_that_the_loop_found_or_wrong() {
    let (mut guise, mut mask) = first(Protocol::Tutorial, false);
    let challenge = Challenge::new(std::array::from_fn(|i| mask.random[i]));
    let of_key = |key| MacAlgorithm::Md5.digest(&replay_key(key), &challenge).as_bytes().to_vec();
    let mut to = Encoder::default();
    assert!(!guise.is_payload());
    let written = guise.write(&mut mask, b"a real digest...", &mut to);
    assert!(guise.is_payload());
    let begin = to.out.len() - 16;
    assert_eq!(to.out[begin..], of_key(0));
    let unjudged = written.unjudged.expect("it is complete");
    unjudged.is_right(2, &mut to.out);
    assert_eq!(to.out[begin..], of_key(2));
    unjudged.is_wrong(&mut to.out);
    let mut wrong = of_key(2);
    wrong[15] ^= 0xff;
    assert_eq!(to.out[begin..], wrong);
}

#[test]
fn a_header_names_a_client_if_it_has_addresses() {
    for (header, named) in [
        (&b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"[..], true),
        (b"PROXY UNKNOWN\r\n", false),
    ] {
        let (mut guise, mut mask) = first(Protocol::Tutorial, true);
        let written = guise.write(&mut mask, header, &mut Encoder::default());
        assert_eq!(written.named, named);
    }
}

#[test]
fn a_snapshot_before_a_header_has_all_random_bytes_that_will_be_a_challenge() {
    let (guise, mask) = first(Protocol::Multiprocessing, true);
    let stand_in = |what, len| guise.stand_in(what, &vec![7; len]).expect("there is one");
    assert_eq!(stand_in(Sensitive::Challenge, 32), mask.random[..32]);
    assert_eq!(stand_in(Sensitive::MoreRandom, 8), mask.random[32..]);
    assert_ne!(mask.random[32..], [0; 8]);
}

#[test]
fn a_response_is_held_once_it_is_complete() {
    let (mut guise, mut mask) = first(Protocol::Multiprocessing, false);
    let mut to = Encoder::default();
    let response = frame(&[7; 16]);
    guise.write(&mut mask, &response[..12], &mut to);
    assert!(!guise.is_held());
    guise.write(&mut mask, &response[12..], &mut to);
    assert!(guise.is_held());
    assert_eq!(guise.let_go(), Some(to.out.len() - 1));
    assert!(!guise.is_held());
    guise.write(&mut mask, &frame(b"#CHALLENGE#0123"), &mut to);
    assert!(!guise.is_held());
}

#[test]
fn of_a_challenge_the_name_of_its_hash_is_kept() {
    for (real, recorded) in [
        ("#CHALLENGE#{sha256}0123", "#CHALLENGE#{sha256}xxxx"),
        ("#CHALLENGE#0123{sha256}", "#CHALLENGE#xxxxxxxxxxxx"),
        ("#CHALLENGE#{0123456789}", "#CHALLENGE#{012345678xx"),
        ("#CHALLENGX#{md5}0123", "#CHALLENGx#{md5}xxxx"),
    ] {
        assert_eq!(mutual(&[&[7; 16], real.as_bytes()]), recorded);
    }
}

#[test]
fn of_a_frame_longer_than_any_message_nothing_is_kept() {
    let challenge_of = |len: usize| format!("#CHALLENGE#{}", "x".repeat(len - 11));
    assert_eq!(mutual(&[&[7; 16], challenge_of(256).as_bytes()]), challenge_of(256));
    assert_eq!(mutual(&[&[7; 16], challenge_of(257).as_bytes()]), "x".repeat(257));
}

#[test]
fn of_a_verdict_only_a_welcome_is_kept() {
    for (real, recorded) in [("#WELCOME#", "#WELCOME#"), ("#FAILURE#", "#xxxxxxE#")] {
        assert_eq!(mutual(&[&[7; 16], b"#CHALLENGE#0123", real.as_bytes()]), recorded);
    }
}
