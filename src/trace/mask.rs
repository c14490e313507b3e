//! What a recording has in the place of what must not be in it: challenges, digests, addresses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::Header;
use crate::auth::MacAlgorithm;
use crate::proto::Protocol;
use crate::random::SplitMix;

/// Sources that are numbered, at most. Beyond them there are no new numbers.
const MAX_SOURCES: usize = 1 << 20;

/// The part of a recording's disguise that its connections have in common.
#[derive(Debug)]
pub(super) struct Mask {
    pub(super) algorithm: MacAlgorithm,
    pub(super) protocol: Protocol,
    /// Payload is kept.
    pub(super) keeps_payload: bool,
    trusted: Vec<IpNet>,
    proxies: Vec<IpNet>,
    numbers: [HashMap<u64, u32>; 4],
    /// Challenges drawn so far.
    drawn: u64,
    /// The random bytes of the last one.
    pub(super) random: [u8; Protocol::MAX_RANDOM],
}

/// The class of an address, which decides about its client in the place of the networks that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Stranger,
    Trusted,
    Balancer,
    NoBalancer,
}

impl Class {
    const fn number(self) -> u8 {
        1 + self as u8
    }

    /// Its networks in the words of a setting. Of IPv4 there is one for each number of digits.
    fn networks(self) -> String {
        format!("{0}.0.0.0/8,1{0}.0.0.0/8,10{0}.0.0.0/8,200{0}::/16", self.number())
    }
}

impl Mask {
    pub(super) fn new(keeps_payload: bool) -> Self {
        Self {
            algorithm: MacAlgorithm::Md5,
            protocol: Protocol::Tutorial,
            keeps_payload,
            trusted: Vec::new(),
            proxies: Vec::new(),
            numbers: Default::default(),
            drawn: 0,
            random: [0; Protocol::MAX_RANDOM],
        }
    }

    /// Heeds the settings of a loop, and returns the header that a recording may have.
    pub(super) fn header(&mut self, mut header: Header) -> Header {
        if let Some(words) = header.get("settings") {
            let words = self.settings(words);
            header.set("settings", words);
        }
        header
    }

    /// The same of a command.
    pub(super) fn command(&mut self, text: &str) -> String {
        match text.split_once(' ') {
            Some(("reconfigure", words)) => format!("reconfigure {}", self.settings(words)),
            Some(("keys", keys)) => {
                self.heed_keys(keys);
                text.to_owned()
            }
            // The message itself is the fourth word.
            Some(("push", words)) if !self.keeps_payload => {
                let kept: Vec<&str> = words.split(' ').take(3).collect();
                format!("push {}", kept.join(" "))
            }
            _ => text.to_owned(),
        }
    }

    fn heed_keys(&mut self, word: &str) {
        let mac = word.split_once(':').and_then(|(_, mac)| MacAlgorithm::named(mac));
        self.algorithm = mac.unwrap_or_default();
    }

    fn settings(&mut self, words: &str) -> String {
        let networks = |word: &str| word.split(',').filter_map(|one| one.parse().ok()).collect();
        let words = words.split_whitespace().map(|pair| {
            let (name, word) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "keyring" => self.heed_keys(word),
                "protocol" => self.protocol = Protocol::named(word).unwrap_or_default(),
                "trusted" => {
                    self.trusted = networks(word);
                    let masked =
                        if word.is_empty() { "".into() } else { Class::Trusted.networks() };
                    return format!("trusted={masked}");
                }
                "proxies" => {
                    self.proxies = networks(word);
                    let masked =
                        if word.is_empty() { "".into() } else { Class::Balancer.networks() };
                    return format!("proxies={masked}");
                }
                _ => {}
            }
            pair.to_owned()
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Draws the random bytes that stand for those of the system.
    pub(super) fn draw(&mut self, len: usize) -> &[u8] {
        self.drawn += 1;
        let mut random = SplitMix::new(self.drawn);
        for word in self.random.chunks_mut(8) {
            word.copy_from_slice(&random.next_u64().to_le_bytes()[..word.len()]);
        }
        &self.random[..len.min(Protocol::MAX_RANDOM)]
    }

    /// The address that stands for that of a client.
    pub(super) fn client(&mut self, address: SocketAddr) -> SocketAddr {
        let class =
            if in_any(&self.trusted, address.ip()) { Class::Trusted } else { Class::Stranger };
        self.address(class, address.ip())
    }

    /// The address that stands for that of the peer of a listener that requires a header.
    pub(super) fn balancer(&mut self, address: SocketAddr) -> SocketAddr {
        let known = in_any(&self.proxies, address.ip());
        let class = if known { Class::Balancer } else { Class::NoBalancer };
        self.address(class, address.ip())
    }

    /// The number in admission of the address that stands for that of a source, which is no trusted one.
    pub(super) fn source(&mut self, source: u64) -> u64 {
        let real = match u32::try_from(source) {
            // The upper half of the one IPv6 address there.
            Ok(0) => IpAddr::from(Ipv6Addr::LOCALHOST),
            Ok(v4) => IpAddr::from(Ipv4Addr::from_bits(v4)),
            Err(_) => IpAddr::from(Ipv6Addr::from_bits(u128::from(source) << 64)),
        };
        match self.address(Class::Stranger, real).ip() {
            IpAddr::V4(v4) => v4.to_bits().into(),
            #[allow(clippy::cast_possible_truncation)] // Shifted by half of it.
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        }
    }

    fn address(&mut self, class: Class, ip: IpAddr) -> SocketAddr {
        let numbers = &mut self.numbers[class as usize];
        let canonical = ip.to_canonical();
        let loopback = class == Class::Stranger && canonical.is_loopback();
        let masked = match canonical {
            IpAddr::V6(_) if loopback => canonical,
            IpAddr::V4(v4) => {
                let number = number_of(numbers, v4.to_bits().into());
                let first = if loopback { Err(127) } else { Ok(class.number()) };
                IpAddr::from(numbered(first, number, v4.to_string().len()))
            }
            // A sender chooses freely within its /64.
            IpAddr::V6(v6) => {
                #[allow(clippy::cast_possible_truncation)] // Shifted by half of it.
                let number = number_of(numbers, (v6.to_bits() >> 64) as u64);
                #[allow(clippy::cast_possible_truncation)] // Its two halves.
                let [low, high] = [number as u16, (number >> 16) as u16];
                let first = 0x2000 | u16::from(class.number());
                IpAddr::from(Ipv6Addr::new(first, low, high, 0, 0, 0, 0, 0))
            }
        };
        // An IPv4 client of an IPv6 listener stays one.
        let masked = match (ip, masked) {
            (IpAddr::V6(_), IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
            (_, masked) => masked,
        };
        SocketAddr::new(masked, 0)
    }
}

/// The IPv4 address with this number whose text has this length, so that it fits into the place of
/// another in a line. The first byte is that of a class, or fixed.
fn numbered(first: Result<u8, u8>, number: u32, len: usize) -> Ipv4Addr {
    // Digits beyond one in each byte. The last byte gets them first, as long as it can have more.
    let mut more = len.saturating_sub(7).min(8);
    let mut number = number;
    let mut bytes = [0; 4];
    if first.is_err() {
        more = more.saturating_sub(2);
    }
    for byte in bytes[1..].iter_mut().rev() {
        let digits = more.min(2);
        more -= digits;
        let (least, span) = [(0, 10), (10, 90), (100, 156)][digits];
        *byte = least + u8::try_from(number % span).expect("a remainder of at most 155");
        number /= span;
    }
    bytes[0] = match (first, more) {
        (Err(fixed), _) => fixed,
        (Ok(class), 0) => class,
        (Ok(class), 1) => 10 + class,
        (Ok(class), _) => 100 + class,
    };
    Ipv4Addr::from(bytes)
}

fn in_any(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

fn number_of(numbers: &mut HashMap<u64, u32>, source: u64) -> u32 {
    let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
    match numbers.get(&source) {
        Some(number) => *number,
        None if numbers.len() >= MAX_SOURCES => next,
        None => *numbers.entry(source).or_insert(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 4711)
    }

    #[test]
    fn one_source_has_one_number_and_two_have_two() {
        let mut mask = Mask::new(false);
        for (real, masked) in [
            ("192.0.2.9", "1.0.0.101"),
            ("192.0.2.7", "1.0.0.102"),
            ("192.0.2.9", "1.0.0.101"),
            ("::ffff:192.0.2.7", "::ffff:1.0.0.102"),
            ("192.168.200.100", "101.100.100.103"),
            ("192.168.200.10", "11.100.100.104"),
            ("9.9.9.9", "1.0.0.5"),
            ("2001:db8::1", "2001:6::"),
            ("2001:db8::2", "2001:6::"),
            ("2001:db8:0:1::2", "2001:7::"),
            ("127.0.0.1", "127.0.0.8"),
            ("::1", "::1"),
        ] {
            assert_eq!(mask.client(at(real)).ip(), masked.parse::<IpAddr>().unwrap(), "{real}");
        }
    }

    #[test]
    fn networks_become_classes() {
        let mut mask = Mask::new(false);
        let words = mask.settings("backlog=9 trusted=10.0.0.0/8 proxies=127.0.0.1/32,::1/128");
        let trusted = "2.0.0.0/8,12.0.0.0/8,102.0.0.0/8,2002::/16";
        let proxies = "3.0.0.0/8,13.0.0.0/8,103.0.0.0/8,2003::/16";
        assert_eq!(words, format!("backlog=9 trusted={trusted} proxies={proxies}"));
        assert_eq!(mask.client(at("10.1.1.1")), SocketAddr::from(([2, 0, 0, 11], 0)));
        assert_eq!(mask.client(at("11.1.1.1")), SocketAddr::from(([1, 0, 0, 11], 0)));
        assert_eq!(mask.balancer(at("127.0.0.1")), SocketAddr::from(([3, 0, 0, 101], 0)));
        assert_eq!(mask.balancer(at("10.1.1.1")), SocketAddr::from(([4, 0, 0, 11], 0)));
    }

    #[test]
    fn a_pushed_message_is_not_kept() {
        assert_eq!(Mask::new(false).command("push 1 2 3 616263"), "push 1 2 3");
        assert_eq!(Mask::new(true).command("push 1 2 3 616263"), "push 1 2 3 616263");
    }

    #[test]
    fn a_command_has_an_effect_on_what_follows_in_the_recording() {
        let mut mask = Mask::new(false);
        let masked = mask.command("reconfigure backlog=9 trusted=10.0.0.0/8");
        let trusted = "2.0.0.0/8,12.0.0.0/8,102.0.0.0/8,2002::/16";
        assert_eq!(masked, format!("reconfigure backlog=9 trusted={trusted}"));
        assert_eq!(mask.client(at("10.1.1.1")), SocketAddr::from(([2, 0, 0, 11], 0)));
        assert_eq!(mask.algorithm, MacAlgorithm::Md5);
        assert_eq!(mask.command("keys 2:sha256"), "keys 2:sha256");
        assert_eq!(mask.algorithm, MacAlgorithm::Sha256);
    }

    #[test]
    fn random_bytes_are_others_for_each_connection_and_the_same_in_each_recording() {
        let of_seed = |seed| {
            let mut random = SplitMix::new(seed);
            [(); 5].map(|()| random.next_u64().to_le_bytes()).concat()
        };
        let mut mask = Mask::new(false);
        assert_eq!(mask.draw(40), of_seed(1));
        assert_eq!(mask.draw(32), &of_seed(2)[..32]);
    }

    #[test]
    fn sources_beyond_a_million_have_one_number() {
        let mut mask = Mask::new(false);
        let known = (1..=1 << 20).map(|number| (u64::from(number), number));
        mask.numbers[Class::Stranger as usize] = known.collect();
        // 2^20 + 1, in two parts.
        for source in ["2001:db8::1", "2001:db8:0:1::1"] {
            assert_eq!(mask.client(at(source)), SocketAddr::from((at("2001:1:10::").ip(), 0)));
        }
        assert_eq!(mask.numbers[Class::Stranger as usize].len(), 1 << 20);
    }
}
