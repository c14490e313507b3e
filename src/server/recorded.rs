//! What a recording has of a loop beside its calls: its settings and the commands of other threads, in
//! words.
//!
//! Keys have no words: their number and their hash are enough, since the digests of a recording are
//! made with keys that are public.

mod restore;
mod snapshot;

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::handle::Command;
use super::reconfigure::Reconfiguration;
use super::{IpNet, Limits, Server};
use crate::auth::{Key, Keyring, MacAlgorithm};
use crate::proto::{CloseReason, Config, ConnId, Handler, Protocol};
use crate::python::saturating_nanos;
use crate::reactor::{Kernel, Note};
use crate::trace::{self, Header};

/// The first lines of a recording of a loop over any kernel, with its settings.
pub fn recording_header(
    config: &Config,
    limits: &Limits,
    trusted: &[IpNet],
    proxies: &[IpNet],
    proxied: &[bool],
) -> Header {
    let (config, limits) = (config.clone(), *limits);
    let (trusted, proxies) = (trusted.to_vec(), proxies.to_vec());
    let kinds = proxied.iter().map(|proxied| if *proxied { "proxied" } else { "direct" });
    Header::new()
        .with("program", env!("CARGO_PKG_VERSION"))
        .with("commit", option_env!("BUILD_COMMIT").unwrap_or("unknown"))
        .with("settings", Reconfiguration { config, limits, trusted, proxies }.to_words())
        .with("listeners", kinds.collect::<Vec<_>>().join(","))
}

/// A setting in one word.
trait Word: Sized {
    fn to_word(&self) -> String;
    fn from_word(word: &str) -> Option<Self>;
}

macro_rules! plain_words {
    ($($type:ty),*) => { $(
        impl Word for $type {
            fn to_word(&self) -> String {
                self.to_string()
            }
            fn from_word(word: &str) -> Option<Self> {
                word.parse().ok()
            }
        }
    )* };
}

plain_words!(bool, u32, u64, usize);

/// In nanoseconds.
impl Word for Duration {
    fn to_word(&self) -> String {
        saturating_nanos(*self).to_string()
    }

    fn from_word(word: &str) -> Option<Self> {
        word.parse().ok().map(Self::from_nanos)
    }
}

impl<T: Word> Word for Option<T> {
    fn to_word(&self) -> String {
        self.as_ref().map_or("off".to_owned(), Word::to_word)
    }

    fn from_word(word: &str) -> Option<Self> {
        if word == "off" { Some(None) } else { T::from_word(word).map(Some) }
    }
}

impl Word for Protocol {
    fn to_word(&self) -> String {
        self.as_str().to_owned()
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::named(word)
    }
}

/// The number of keys and their hash.
impl Word for Keyring {
    fn to_word(&self) -> String {
        format!("{}:{}", self.names().len(), self.algorithm().as_str())
    }

    fn from_word(word: &str) -> Option<Self> {
        let (count, mac) = word.split_once(':')?;
        let algorithm = MacAlgorithm::named(mac)?;
        let count: usize = count.parse().ok().filter(|count| *count <= crate::auth::MAX_KEYS)?;
        let keys: Vec<Key> = (0..count).map(trace::replay_key).collect();
        Self::new(algorithm, &keys).ok()
    }
}

/// Separated by commas.
impl Word for Vec<IpNet> {
    fn to_word(&self) -> String {
        self.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
    }

    fn from_word(word: &str) -> Option<Self> {
        word.split(',').filter(|one| !one.is_empty()).map(|one| one.parse().ok()).collect()
    }
}

/// Writes and reads all fields of a type, so that a new one cannot be forgotten.
macro_rules! words_of {
    ($type:ident, $write:ident, $read:ident, $($field:ident)*) => {
        fn $write(from: &$type, words: &mut String) {
            let $type { $($field),* } = from;
            $( let _ = write!(words, concat!(" ", stringify!($field), "={}"), $field.to_word()); )*
        }

        /// False if there is no such field.
        fn $read(to: &mut $type, name: &str, word: &str) -> Option<bool> {
            match name {
                $( stringify!($field) => to.$field = Word::from_word(word)?, )*
                _ => return Some(false),
            }
            Some(true)
        }
    };
}

words_of!(Config, write_config, read_config, keyring protocol header_timeout auth_timeout idle_timeout
    send_timeout keepalive linger_timeout linger_bytes recv_size max_answer);
words_of!(Limits, write_limits, read_limits, connections unauthenticated eviction_age
    unauthenticated_per_source suspicion trust_loopback accepts_per_turn accept_retry shed_per_retry
    bytes_per_turn mailbox_bytes drain_delay drain_timeout probes_per_second deadlines_per_turn
    events_per_poll spin backlog);

impl Reconfiguration {
    fn to_words(&self) -> String {
        let Self { config, limits, trusted, proxies } = self;
        let mut words = String::new();
        write_config(config, &mut words);
        write_limits(limits, &mut words);
        let _ = write!(words, " trusted={} proxies={}", trusted.to_word(), proxies.to_word());
        words.remove(0);
        words
    }
}

impl FromStr for Reconfiguration {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(1));
        let (trusted, proxies) = (Vec::new(), Vec::new());
        let mut read = Self { config, limits, trusted, proxies };
        for pair in words.split_whitespace() {
            let (name, word) = pair.split_once('=').ok_or(pair)?;
            let is_known = match name {
                "trusted" => {
                    Word::from_word(word).map(|networks| read.trusted = networks).is_some()
                }
                "proxies" => {
                    Word::from_word(word).map(|networks| read.proxies = networks).is_some()
                }
                _ => {
                    read_config(&mut read.config, name, word).ok_or(pair)?
                        || read_limits(&mut read.limits, name, word).ok_or(pair)?
                }
            };
            if !is_known {
                return Err(pair.to_owned());
            }
        }
        Ok(read)
    }
}

impl Command {
    /// The command in words. A message that is pushed is in hexadecimal digits.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Drain => "drain".to_owned(),
            Self::Stop => "stop".to_owned(),
            Self::Reload => "reload".to_owned(),
            Self::ReplaceKeyring(keyring) => format!("keys {}", keyring.to_word()),
            Self::Reconfigure(change) => format!("reconfigure {}", change.to_words()),
            Self::KeepRecords(keep) => format!("keep-records {keep}"),
            Self::Push(id, message) => {
                let digits = data_encoding::HEXLOWER.encode(message);
                format!("push {} {} {} {digits}", id.index, id.generation, message.len())
            }
            Self::Stats(_) => "stats".to_owned(),
            Self::Visit(_) => "visit".to_owned(),
            Self::Park => "park".to_owned(),
        }
    }

    /// The command of these words; `None` if it changes nothing.
    fn from_text(text: &str) -> Result<Option<Self>, String> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let unknown =
            || format!("the recording has a command that this build does not know: {verb}");
        Ok(Some(match verb {
            "drain" => Self::Drain,
            "stop" => Self::Stop,
            "reload" => Self::Reload,
            "keys" => Self::ReplaceKeyring(Box::new(Word::from_word(rest).ok_or_else(unknown)?)),
            "reconfigure" => Self::Reconfigure(Box::new(rest.parse().map_err(|word| {
                format!("the recording has a setting that this build does not know: {word}")
            })?)),
            "keep-records" => Self::KeepRecords(Word::from_word(rest).ok_or_else(unknown)?),
            "push" => {
                let (id, message) = push_of(rest).ok_or_else(unknown)?;
                Self::Push(id, message)
            }
            "stats" | "visit" | "park" => return Ok(None),
            _ => return Err(unknown()),
        }))
    }
}

/// The subject and the message of a push. One without its bytes gets neutral ones.
fn push_of(words: &str) -> Option<(ConnId, Bytes)> {
    /// A message waits in memory, and is no longer than a mailbox takes.
    const LONGEST: usize = 64 << 20;
    let mut words = words.split_whitespace();
    let index = words.next()?.parse().ok()?;
    let generation = words.next()?.parse().ok()?;
    let len: usize = words.next()?.parse().ok().filter(|len| *len <= LONGEST)?;
    let message = match words.next() {
        Some(digits) => data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?,
        None => vec![b'p'; len],
    };
    Some((ConnId { index, generation }, message.into()))
}

impl<K: Kernel, H: Handler + Clone> Server<K, H> {
    /// Repeats what reached the recorded loop here, if its kernel replays a recording.
    #[inline]
    pub(super) fn repeat(&mut self) {
        // The tick is the last step of a turn, and takes its period from the recording itself.
        let wanted = |note: &Note| !matches!(note, Note::Tick(_));
        while let Some(note) = self.reactor.kernel.replayed(wanted) {
            match note {
                Note::Command(text) => match Command::from_text(&text) {
                    Ok(Some(command)) => self.perform(command),
                    Ok(None) => {}
                    Err(fault) => trace::stop_replay(fault),
                },
                Note::Killed(id) => self.abort(id, CloseReason::Killed),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_read_as_it_was_written() {
        let mut change = Reconfiguration {
            config: Config::new(Keyring::demo()),
            limits: Limits::for_connections(3),
            trusted: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            proxies: Vec::new(),
        };
        change.config.protocol = Protocol::Multiprocessing;
        (change.config.idle_timeout, change.limits.trust_loopback) = (None, false);
        let id = ConnId { index: 3, generation: 4 };
        for command in [
            Command::Drain,
            Command::Stop,
            Command::Reload,
            Command::ReplaceKeyring(Box::new(Keyring::demo())),
            Command::Reconfigure(Box::new(change)),
            Command::KeepRecords(true),
            Command::KeepRecords(false),
            Command::Push(id, Bytes::from_static(b"hi")),
        ] {
            let text = command.to_text();
            let read = Command::from_text(&text).unwrap().expect("it changes something");
            assert_eq!(read.to_text(), text);
        }
        for nothing in ["stats", "visit", "park"] {
            assert!(Command::from_text(nothing).unwrap().is_none(), "{nothing}");
        }
        for unknown in ["pause", "keys 1:crc32", "keys 9:md5", "reconfigure colour=red", "push 1 2"]
        {
            assert!(Command::from_text(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn a_message_without_its_bytes_has_its_length() {
        let len = |words| push_of(words).map(|(_, message)| message.len());
        assert_eq!(len("1 2 3"), Some(3));
        assert_eq!(len("1 2 67108864"), Some(64 << 20));
        assert_eq!(len("1 2 67108865"), None, "longer than a mailbox takes");
        assert_eq!(push_of("1 2 2 6869").unwrap().1, "hi");
    }
}
