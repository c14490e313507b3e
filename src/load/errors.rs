//! [`Errors`] in JSON: the number of each kind, and the total.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serializer};

use super::{ErrorKind, Errors};

const TOTAL: &str = "total";

pub(super) fn serialize<S: Serializer>(errors: &Errors, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(1 + ErrorKind::ALL.len()))?;
    map.serialize_entry(TOTAL, &errors.total())?;
    for kind in ErrorKind::ALL {
        map.serialize_entry(kind.as_str(), &errors.of(kind))?;
    }
    map.end()
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Errors, D::Error> {
    from.deserialize_map(ErrorsVisitor)
}

struct ErrorsVisitor;

impl<'de> Visitor<'de> for ErrorsVisitor {
    type Value = Errors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers of errors by kind")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Errors, A::Error> {
        let mut errors = Errors::default();
        let mut given: BTreeMap<String, u64> = BTreeMap::new();
        while let Some((name, number)) = map.next_entry()? {
            given.insert(name, number);
        }
        let total = given.remove(TOTAL);
        for kind in ErrorKind::ALL {
            errors.add(kind, given.remove(kind.as_str()).unwrap_or(0));
        }
        if let Some(unknown) = given.keys().next() {
            return Err(A::Error::custom(format!("unknown kind of error `{unknown}`")));
        }
        match total {
            Some(total) if total != errors.total() => {
                Err(A::Error::custom("the kinds of errors do not add up to their total"))
            }
            _ => Ok(errors),
        }
    }
}
