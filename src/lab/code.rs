use std::fmt;
use std::str::FromStr;

/// A way in which a loop goes wrong, by the code that verdicts name. Codes never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    /// The loop ended or panicked while it had clients.
    Ended = 1,
    /// It slept with unread input.
    UnreadInput,
    /// It slept while clients waited to be accepted.
    Door,
    /// It accepted a client and never registered it.
    Forgotten,
    /// It slept with an unread end of a stream.
    UnreadEnd,
    /// It dropped the rest of a short send.
    LostRest,
    /// It slept with an answer in hand, and there was room for it.
    AnswerInHand,
    /// It kept a connection that was over.
    KeptEnded,
    /// It closed a connection whose input it had not read.
    ClosedUnread,
    /// It closed a healthy connection.
    ClosedWithoutCause,
    /// It closed a connection before the whole answer was sent.
    ClosedUnanswered,
    /// Its close became a reset, which destroyed an answer.
    ResetOvertakes,
    /// It sent bytes twice.
    Repeated,
    /// It sent one client's bytes to another.
    AnotherClient,
    /// It sent bytes that it had not received.
    WrongBytes,
    /// It received more than it may keep.
    OverLimit,
    /// One client held the loop.
    HeldTheLoop,
    /// A connection was closed before its time was up.
    TooEarly,
    /// It slept past a deadline.
    PastDeadline,
    /// It never ended its stream, for which the client waits.
    NoEnd,
    /// It ran out of descriptors and never tried again.
    Famine,
    /// It was busy with nothing.
    Spins,
    /// It answered a part of a message.
    PartOfMessage,
    /// It received with a larger buffer than the exercise allows.
    LargeBuffer,
}

/// The texts of a code.
struct Text {
    title: &'static str,
    expected: &'static str,
    help: &'static str,
    why: &'static str,
    exercise: &'static str,
}

impl Code {
    /// All codes, in order.
    pub const ALL: [Self; 24] = [
        Self::Ended,
        Self::UnreadInput,
        Self::Door,
        Self::Forgotten,
        Self::UnreadEnd,
        Self::LostRest,
        Self::AnswerInHand,
        Self::KeptEnded,
        Self::ClosedUnread,
        Self::ClosedWithoutCause,
        Self::ClosedUnanswered,
        Self::ResetOvertakes,
        Self::Repeated,
        Self::AnotherClient,
        Self::WrongBytes,
        Self::OverLimit,
        Self::HeldTheLoop,
        Self::TooEarly,
        Self::PastDeadline,
        Self::NoEnd,
        Self::Famine,
        Self::Spins,
        Self::PartOfMessage,
        Self::LargeBuffer,
    ];

    /// The fault in one line.
    pub const fn title(self) -> &'static str {
        self.text().title
    }

    /// The right behavior in one line.
    pub const fn expected(self) -> &'static str {
        self.text().expected
    }

    /// A remedy, which is not the only one.
    pub const fn help(self) -> &'static str {
        self.text().help
    }

    /// The kernel fact behind the fault, in a paragraph.
    pub const fn why(self) -> &'static str {
        self.text().why
    }

    /// The name of the exercise that trains the cure.
    pub const fn exercise(self) -> &'static str {
        self.text().exercise
    }

    /// All of that for a terminal, in lines of at most 90 characters.
    pub fn explanation(self) -> String {
        let Text { title, expected, help, why, exercise } = self.text();
        format!(
            "{self}: {title}\n\n{}\n\nexpected: {expected}\nhelp:     {help}\nexercise: {exercise}\n",
            wrap(why)
        )
    }

    /// Each code with its fault, a line each.
    pub fn list() -> String {
        Self::ALL.map(|code| format!("{code}  {}\n", code.title())).concat()
    }

    const fn text(self) -> &'static Text {
        &TEXTS[self as usize - 1]
    }
}

/// Breaks a text into lines of at most 90 characters.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        if !line.is_empty() && line.len() + word.len() >= 90 {
            lines.push(word.to_owned());
        } else {
            let space = if line.is_empty() { "" } else { " " };
            line.push_str(space);
            line.push_str(word);
        }
    }
    lines.join("\n")
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{:02}", *self as u8)
    }
}

/// Reads `L02`, `l02` or `2`.
impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim_start_matches(['L', 'l']).parse::<usize>().ok();
        let code = number.and_then(|number| Self::ALL.get(number.checked_sub(1)?));
        code.copied().ok_or_else(|| format!("the codes are L01 to L{:02}, not {text}", TEXTS.len()))
    }
}

const TEXTS: [Text; 24] = [
    Text {
        title: "the loop ended while it had clients",
        expected: "the loop goes on until the lab stops it, whatever one client does",
        help: "an error of one connection ends that connection; only an error of poll ends the loop",
        why: "One client's error must not be another client's end. `?` on recv, send or accept \
              hands the error of one connection to the loop as a whole, and so does an index or an \
              unwrap on a token that is not there any more. EINTR and WouldBlock are no errors at \
              all: the first means \"call again\", the second \"not yet\". EINTR ended the loops of \
              tokio-rs/mio#494 and vorner/signal-hook#98.",
        exercise: "stale-events",
    },
    Text {
        title: "the loop slept with unread input",
        expected: "recv until WouldBlock, or a poll with timeout 0 and the connection remembered",
        help: "an event says that input came, not how much: loop around recv until it says WouldBlock",
        why: "Readiness is edge-triggered: an event comes once after the change from \"would \
              block\" to \"ready\". A loop that leaves a part unread gets no second event for it, \
              unless the client sends more, and a client that waits for its answer does not. \
              tokio-rs/mio#1076 and #1085 are two of many reports of it. A read that stops at an \
              urgent mark is another way into it: it is short although more stands behind it.",
        exercise: "drain",
    },
    Text {
        title: "the loop slept while clients waited to be accepted",
        expected: "accept until WouldBlock, or a poll with timeout 0 and the listener remembered",
        help: "one event may stand for many clients: loop around accept until it says WouldBlock",
        why: "A listener is readable or not, like a stream. Three clients that connect before the \
              poll are one event, and accepting one of them leaves two in the queue without another \
              event, until the next client comes. tokio-rs/mio#845, pgexporter/pgexporter#586, \
              massalabs/massa#4333 and vibe-d/eventcore#20 had it.",
        exercise: "door",
    },
    Text {
        title: "a client was accepted and never registered",
        expected: "register each accepted stream before the next poll",
        help: "register announces what is already there, so nothing is missed in between",
        why: "The kernel reports only sockets that were registered with it. What came before that is not \
              lost: registering announces it.",
        exercise: "first-echo",
    },
    Text {
        title: "the loop slept with an unread end of a stream",
        expected: "after a short read with the hang-up bit, recv again until it returns 0 or WouldBlock",
        help: "a short read proves an empty queue only if no end is announced; else call recv again",
        why: "The last bytes and the end of the stream arrive together and are one event. A recv returns the \
              bytes; the end is seen by the next recv only. A loop that takes a short read for the end of \
              the input saves a call, and keeps a dead connection for ever.",
        exercise: "ends",
    },
    Text {
        title: "the rest of an answer was dropped",
        expected: "keep what send did not take, and send it first when there is room",
        help: "send returns how many bytes it took: keep the others and their order",
        why: "send takes what fits into the socket's buffer and returns how much that was. The rest \
              is the caller's. With small messages and fast readers it always takes everything, so \
              the fault shows when a client is slow. microsoft/WSL#40032, objeck/objeck-lang#670, \
              MisterTea/EternalTerminal#815 and gvanem/Watt-32#106 had it.",
        exercise: "short-sends",
    },
    Text {
        title: "the loop slept with an answer in hand",
        expected: "send at once, and wait for a writable event only after send found no room",
        help: "try send as soon as there is something to send; WouldBlock promises the event",
        why: "A writable event comes after a send that found too little room, and (once) after the \
              registration. A loop that waits for one before it tries waits for an event that \
              nothing owes it. tokio-rs/mio#1337, engula/engula#653 and tokio-rs/tokio#238 are \
              reports of answers that came with the next request only.",
        exercise: "short-sends",
    },
    Text {
        title: "a connection that was over was kept",
        expected: "after recv returned 0 and the answer is sent, or after an error, close the stream",
        help: "zero is the end of the stream, WouldBlock is \"not yet\": close after the first",
        why: "recv returns 0 once the client has ended its stream and everything before was read. \
              No further event comes, so a loop that takes it for \"nothing yet\" keeps the \
              descriptor for ever, or reads zero again and again. wg/wrk#179, \
              swhitty/FlyingFox#224, sahlberg/libnfs#121 and ElementsProject/lightning#7661.",
        exercise: "ends",
    },
    Text {
        title: "a connection was closed with unread input",
        expected: "read to the end of the stream before closing",
        help: "the hang-up bit says that an end will come, not that it is next: recv until 0",
        why: "The hang-up bit (EPOLLRDHUP, EPOLLHUP) is set when the client's end has arrived, and \
              unread bytes stand before that end. A loop that closes at the bit loses them, and the \
              kernel answers a close with unread input with a reset. netty/netty#4317, #3729 and \
              #6391 lost last packets; tokio-rs/mio#1110 notes that the bit may be missing as well.",
        exercise: "ends",
    },
    Text {
        title: "a healthy connection was closed",
        expected: "WouldBlock ends a round of calls and never a connection; an event is a hint",
        help: "close after recv returned 0, or after an error other than WouldBlock and EINTR",
        why: "An event is a hint about the past. It may be late, come twice, or be meant for an \
              earlier owner of the token, and the call then says WouldBlock. That is the normal end \
              of a round. tokio-rs/mio#632, berkowski/mio-serial#12, K0M15/webserv#53 and \
              katyo/gpiod-rs#8 took it for a failure; tokio-rs/mio#172, wasmerio/wasmer#6608 and \
              xrootd/xrootd#1928 took an event for the wrong owner's.",
        exercise: "stale-events",
    },
    Text {
        title: "a connection was closed before its answer was sent",
        expected: "the client's end ends reading only: send the whole answer, then close",
        help: "remember that the end came; close when the last byte of the answer is taken",
        why: "A stream has two directions. `printf hello | nc` ends its own and waits for the \
              answer. A loop that closes as soon as recv returns 0 throws away what did not fit \
              into the socket's buffer. oven-sh/bun#35034, MDA2AV/ioxide#164 and \
              enghitalo/vanilla#103 had it.",
        exercise: "ends",
    },
    Text {
        title: "a close became a reset, which destroyed an answer",
        expected: "shutdown, read the client's rest until recv returns 0, then close",
        help: "end your stream with shutdown, and close only after the client's end has come",
        why: "close with unread input, or input that comes after the close, makes the kernel send a reset. \
              It overtakes the answer: what the client has not read by then is gone (RFC 2525, section \
              2.17). shutdown ends the stream without that, and reading the rest makes the close \
              harmless.",
        exercise: "goodbye",
    },
    Text {
        title: "bytes were sent twice",
        expected: "continue behind the last byte that send took",
        help: "after a short send advance by its result, and do not begin again",
        why: "A short send took the beginning. A loop that offers the whole buffer again sends that \
              beginning twice, and a receiver of a stream cannot know.",
        exercise: "short-sends",
    },
    Text {
        title: "one client's bytes were sent to another",
        expected: "each connection has its own buffer, under a name that no other has",
        help: "keep the answer with its connection, and use a token only once",
        why: "A token that is used again names another connection to whatever still holds the old \
              one: an event of the same batch, a queue, an answer. tokio-rs/mio#172, creytiv/re#266 \
              and moonbitlang/async#571 met it. A generation in the token, or tokens that are never \
              used twice, cure all of them.",
        exercise: "stale-events",
    },
    Text {
        title: "bytes were sent that had not been received",
        expected: "the answer is what this client sent, byte for byte",
        help: "send only the first n bytes of the buffer, where n is the result of recv",
        why: "recv fills the beginning of the buffer. Behind its n bytes stands what was there before.",
        exercise: "first-echo",
    },
    Text {
        title: "more was received than may be kept",
        expected: "stop reading from a client while its answer waits",
        help: "while bytes of an answer wait for room, do not call recv; go on when they are sent",
        why: "A client that sends and never reads makes its answers wait in the loop's memory. If \
              the loop stops reading, the client's own send fills up and stops, at no cost: that is \
              back-pressure. Without it memory grows until the process dies. redis/redis#91, #540, \
              #2679 and #6319.",
        exercise: "back-pressure",
    },
    Text {
        title: "one client held the loop",
        expected: "a share per turn and connection, and the rest in the next turn",
        help: "after the share put the connection into a queue, poll with timeout 0, and go on behind others",
        why: "A client that sends faster than the loop reads has no WouldBlock to offer, so \"until \
              WouldBlock\" never ends, and all others wait (dabeaz/curio#106, libuv/libuv#2027, \
              twitter/twemproxy#416). A share ends it; but the unread rest gets no new event, so it \
              has to be remembered, which sjanel/aeronet#485 had to add.",
        exercise: "fairness",
    },
    Text {
        title: "a connection was closed before its time was up",
        expected: "the deadline moves with each byte received; late is allowed, early never",
        help: "read the clock after the poll, and set the deadline anew whenever bytes come",
        why: "A time-out counts from the last byte, not from the first, and from the time after the \
              poll. A reading from before the poll is as old as the poll was long: a deadline set \
              from it may lie in the past at once. libuv/libuv#1068, libuv/libuv#4773 and \
              nodejs/node-v0.x-archive#6147.",
        exercise: "deadlines",
    },
    Text {
        title: "the loop slept past a deadline",
        expected: "poll at most until the next deadline",
        help: "pass the time until the earliest deadline to poll as its timeout",
        why: "Silence causes no event. What is to happen because nothing comes needs a timeout of the poll, and \
              the right one is the time until the earliest deadline.",
        exercise: "deadlines",
    },
    Text {
        title: "the client waits for an end that never comes",
        expected: "after the last byte of the answer, shutdown",
        help: "call shutdown once the whole answer is taken: it is delivered, and the end behind it",
        why: "A client that does not know the length reads until the end of the stream. As long as \
              the server has not ended its own direction, that end cannot come, and both sides wait.",
        exercise: "goodbye",
    },
    Text {
        title: "the loop ran out of descriptors and never tried again",
        expected: "rest, with a timeout of the poll, then try accept again; or shed the client",
        help: "after EMFILE poll with a timeout, or turn the client away with shed",
        why: "accept fails with EMFILE and the client stays in the queue. No new edge comes for it: \
              the listener was readable all the time. So a loop that logs the error and goes on \
              never accepts again until another client comes (projecteru/redis-cerberus#29), and \
              one that tries again at once spins (joyent/libuv#690, oven-sh/bun#32705, \
              nodejs/node#45242).",
        exercise: "bad-night",
    },
    Text {
        title: "the loop is busy with nothing",
        expected: "sleep in poll while there is nothing to do",
        help: "after WouldBlock or 0 leave the socket alone, and pass timeout 0 only with work in hand",
        why: "A thousand calls without a byte, a client or a moment gained: a timeout of 0 without work in \
              hand, an accept repeated after EMFILE, or a stream read on after its end.",
        exercise: "bad-night",
    },
    Text {
        title: "a part of a message was answered",
        expected: "collect until the message is complete, then answer it",
        help: "keep the bytes of an unfinished message with its connection",
        why: "TCP carries a stream of bytes and no messages. One send of the client may arrive as two reads, \
              and two of them as one. It works on one machine for years: short messages arrive whole there.",
        exercise: "pieces",
    },
    Text {
        title: "recv was called with a larger buffer than the exercise allows",
        expected: "a buffer of at most `recv_max` bytes",
        help: "a larger buffer hides the fault until a message is larger still",
        why: "With a buffer larger than any message one recv reads all there is, and a loop that reads once \
              looks right. The exercises limit the buffer, so that the difference shows.",
        exercise: "drain",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_fits_a_terminal_and_names_an_exercise() {
        for code in Code::ALL {
            assert!(crate::lab::Exercise::find(code.exercise()).is_ok(), "{code}");
            for line in wrap(code.why()).lines() {
                assert!(line.len() <= 90, "{line}");
            }
            assert!(code.explanation().starts_with(&format!("{code}: {}", code.title())));
        }
        assert_eq!(Code::list().lines().count(), Code::ALL.len());
    }

    #[test]
    fn codes_are_numbered_from_one_and_read_back() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index + 1);
            assert_eq!(code.to_string().parse(), Ok(code));
            assert!(!code.title().is_empty() && !code.help().is_empty() && !code.why().is_empty());
        }
        assert_eq!("2".parse(), Ok(Code::UnreadInput));
        for wrong in ["", "L00", "L25", "E02", "two"] {
            let error = wrong.parse::<Code>().unwrap_err();
            assert!(error.starts_with("the codes are L01 to L24"), "{error}");
        }
    }
}
