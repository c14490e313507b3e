//! Payloads and results in the scenario file's forms.
#![allow(clippy::disallowed_methods)] // One value at most is found.

use saltecho::socket::{Address, Data, OptionValue};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::World;

/// A successful result, before it is compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Secs(f64),
    Bytes(Vec<u8>),
    Text(String),
    Addr(String, u16),
    List(Vec<Value>),
    Socket(String),
    File(String),
}

/// Longer byte strings are described by length and digest.
pub(crate) const LONG: usize = 64;

impl Value {
    /// The JSON form; a port is described by the name that had it first.
    pub(crate) fn describe(&self, world: &World) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(flag) => json!(flag),
            Self::Int(n) => json!(n),
            Self::Secs(secs) => json!({ "secs": secs }),
            Self::Bytes(bytes) if bytes.len() > LONG => describe_long(bytes),
            Self::Bytes(bytes) => json!({ "hex": hex(bytes) }),
            Self::Text(text) => json!({ "text": text }),
            Self::Addr(host, 0) => json!({ "addr": [host, 0] }),
            Self::Addr(host, port) => {
                let ports = super::lock(&world.ports);
                let mut names: Vec<_> =
                    ports.iter().filter(|(_, p)| *p == port).map(|(name, _)| name).collect();
                names.sort_unstable();
                match names.first() {
                    Some(name) => json!({ "addr": [host, format!("port:{name}")] }),
                    // Not the first port of its socket: the kernel picked another.
                    None => json!({ "addr": [host, "another port"] }),
                }
            }
            Self::List(items) => {
                let items: Vec<Json> = items.iter().map(|item| item.describe(world)).collect();
                json!({ "list": items })
            }
            Self::Socket(name) => json!({ "socket": name }),
            Self::File(name) => json!({ "file": name }),
        }
    }
}

/// The bytes of a payload; a text is taken in UTF-8.
pub(crate) fn bytes_of(spec: &Json, world: &World) -> Vec<u8> {
    if let Some(digits) = spec["hex"].as_str() {
        return unhex(digits);
    }
    if let Some(text) = spec["text"].as_str() {
        return text.as_bytes().to_vec();
    }
    if let (Some(seed), Some(len)) = (spec["pattern"].as_u64(), spec["len"].as_u64()) {
        return pattern(seed, len);
    }
    if let Some(name) = spec["var"].as_str() {
        match world.var(name) {
            Some(Value::Bytes(bytes)) => return bytes,
            other => panic!("{name} holds {other:?}, not bytes"),
        }
    }
    panic!("no such form of data: {spec}")
}

/// `len` bytes: byte i is (i + seed) mod 251.
pub(crate) fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) % 251) as u8).collect()
}

impl From<()> for Value {
    fn from((): ()) -> Self {
        Self::Null
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i32> for Value {
    fn from(n: i32) -> Self {
        Self::Int(n.into())
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Self::Int(i64::try_from(n).expect("counts fit"))
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Option<f64>> for Value {
    fn from(secs: Option<f64>) -> Self {
        secs.map_or(Self::Null, Self::Secs)
    }
}

impl From<Data> for Value {
    fn from(data: Data) -> Self {
        match data {
            Data::Bytes(bytes) => Self::Bytes(bytes),
            Data::Text(text) => Self::Text(text),
        }
    }
}

impl From<OptionValue> for Value {
    fn from(value: OptionValue) -> Self {
        match value {
            OptionValue::Int(n) => n.into(),
            OptionValue::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<Address> for Value {
    fn from(address: Address) -> Self {
        match address.as_socket_addr() {
            Some(address) => Self::Addr(address.ip().to_string(), address.port()),
            None => Self::Text(address.to_string()),
        }
    }
}

/// The description of a long byte string.
pub(crate) fn describe_long(bytes: &[u8]) -> Json {
    json!({ "len": bytes.len(), "sha256": hex(&Sha256::digest(bytes)) })
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn unhex(digits: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(digits.as_bytes()).expect("payloads are lower-case hex")
}
