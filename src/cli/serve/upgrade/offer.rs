//! What the old process serves, as far as the new one's settings have to agree with it.

use std::net::SocketAddr;
use std::str::FromStr;

use saltecho::server::AdminAddress;

use super::message::{NoSense, Text};
use crate::cli::serve::proxy::Place;
use crate::cli::serve::settings::{Fixed, PassedPlaces, Settings};

/// The listeners of a server and what connections depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli::serve) struct Serving {
    /// The addresses that were asked for, where port 0 is one.
    places: Vec<(SocketAddr, bool)>,
    /// Those of the sockets that a service manager passed, to whichever process was the first.
    passed: Vec<(SocketAddr, bool)>,
    passed_admin: Option<AdminAddress>,
    admin: Option<AdminAddress>,
    protocol: String,
    /// True if the listeners were opened with keepalive.
    pub(in crate::cli::serve) can_probe: bool,
    /// The addresses that were opened for `places`, then those of `passed`.
    pub(in crate::cli::serve) addresses: Vec<SocketAddr>,
}

impl Serving {
    /// What a server with these settings serves at these addresses.
    pub(in crate::cli::serve) fn new(settings: &Settings, addresses: &[SocketAddr]) -> Self {
        let Fixed { places, passed, admin, protocol, .. } = &settings.fixed;
        let pair = |place: &Place| (place.address, place.proxied);
        Self {
            places: places.iter().map(pair).collect(),
            passed: passed.places.iter().map(pair).collect(),
            passed_admin: passed.admin.clone(),
            admin: admin.clone(),
            protocol: protocol.to_string(),
            can_probe: settings.config.keepalive.is_some(),
            addresses: addresses.to_vec(),
        }
    }

    pub(super) fn add_to(&self, text: Text) -> Text {
        let admin = |address: &Option<AdminAddress>| {
            address.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        text.with("listen", list(&self.places))
            .with("passed", list(&self.passed))
            .with("passed-admin", admin(&self.passed_admin))
            .with("admin", admin(&self.admin))
            .with("protocol", &self.protocol)
            .with("can-probe", self.can_probe)
            .with("addresses", words(self.addresses.iter()))
    }

    pub(super) fn read(text: &Text) -> Result<Self, NoSense> {
        let admin = |key| match text.get(key).unwrap_or_default() {
            "" => Ok(None),
            address => AdminAddress::from_str(address).map(Some).map_err(|_| NoSense(key)),
        };
        let addresses = text.get("addresses").unwrap_or_default().split_whitespace();
        let addresses: Result<Vec<SocketAddr>, _> = addresses.map(str::parse).collect();
        Ok(Self {
            places: pairs(text, "listen")?,
            passed: pairs(text, "passed")?,
            passed_admin: admin("passed-admin")?,
            admin: admin("admin")?,
            protocol: text.read("protocol")?,
            can_probe: text.read("can-probe")?,
            addresses: addresses.map_err(|_| NoSense("addresses"))?,
        })
    }

    /// The sockets that were passed to the first process. They are handed over with the others.
    pub(in crate::cli::serve) fn passed_places(&self) -> PassedPlaces {
        let place = |&(address, proxied): &(SocketAddr, bool)| Place {
            address,
            proxied,
            flag: "a socket passed",
        };
        PassedPlaces {
            places: self.passed.iter().map(place).collect(),
            admin: self.passed_admin.clone(),
        }
    }

    /// Refuses settings that ask for other listeners: those that are handed over are the ones that
    /// clients know, and others could be lacking the rights to open.
    ///
    /// # Errors
    /// The setting, in one line.
    pub(in crate::cli::serve) fn refuse_other(&self, settings: &Settings) -> Result<(), String> {
        let new = Self::new(settings, &self.addresses);
        let none = || "none".to_owned();
        let shown = |address: &Option<AdminAddress>| {
            address.as_ref().map_or_else(none, ToString::to_string)
        };
        for (what, old, new) in [
            ("addresses to listen on", list(&self.places), list(&new.places)),
            ("address of the admin endpoint", shown(&self.admin), shown(&new.admin)),
            ("protocol", self.protocol.clone(), new.protocol.clone()),
        ] {
            if old != new {
                return Err(format!(
                    "the {what} changed from {old} to {new}, which takes a restart: change it back to \
                     upgrade"
                ));
            }
        }
        Ok(())
    }
}

/// Addresses, of which those behind a balancer have a mark.
fn list(places: &[(SocketAddr, bool)]) -> String {
    words(places.iter().map(|(address, proxied)| match proxied {
        true => format!("proxy:{address}"),
        false => address.to_string(),
    }))
}

fn words<T: ToString>(words: impl Iterator<Item = T>) -> String {
    words.map(|word| word.to_string()).collect::<Vec<_>>().join(" ")
}

fn pairs(text: &Text, key: &'static str) -> Result<Vec<(SocketAddr, bool)>, NoSense> {
    let words = text.get(key).unwrap_or_default().split_whitespace();
    let pair = |word: &str| {
        let address = word.strip_prefix("proxy:");
        let parsed = address.unwrap_or(word).parse().map_err(|_| NoSense(key));
        parsed.map(|parsed| (parsed, address.is_some()))
    };
    words.map(pair).collect()
}
