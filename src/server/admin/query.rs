//! The query of `/connections`.

use crate::proto::State;

/// The most rows of a sorted list, which are kept in memory and sorted in one turn.
pub(super) const MAX_SORTED: usize = 1000;
/// The rows of a sorted list without a limit.
const DEFAULT_SORTED: usize = 100;

/// Which connections to list, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// The name of the state that they are in, if only one is wanted.
    pub(super) state: Option<&'static str>,
    pub(super) sort: Option<Sort>,
    pub(super) limit: usize,
}

/// The order of a sorted list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) key: SortKey,
    pub(super) reversed: bool,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortKey {
    /// The oldest first.
    Age,
    /// The one that was silent for longest first.
    Idle,
    /// The one that was most received from first.
    Received,
    /// The one that was sent most first.
    Sent,
    /// The largest backlog first.
    Unsent,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut state, mut sort, mut limit) = (None, None, None);
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let repeated = match name {
                "state" => state.replace(parse_state(value)?).is_some(),
                "sort" => sort.replace(parse_sort(value)?).is_some(),
                "limit" => limit.replace(parse_limit(value)?).is_some(),
                _ => return Err(format!("{name:?} is no parameter: use state, sort or limit")),
            };
            if repeated {
                return Err(format!("{name} is given twice: remove one"));
            }
        }
        let limit = match (sort, limit) {
            (None, limit) => limit.unwrap_or(usize::MAX),
            (Some(_), None) => DEFAULT_SORTED,
            (Some(_), Some(limit)) if limit <= MAX_SORTED => limit,
            (Some(_), Some(limit)) => {
                return Err(format!(
                    "limit={limit}: a sorted list has at most {MAX_SORTED} rows; without sort= \
                     there is no limit"
                ));
            }
        };
        Ok(Self { state, sort, limit })
    }
}

fn parse_state(value: &str) -> Result<&'static str, String> {
    let found = State::NAMES.iter().find(|name| **name == value);
    found.copied().ok_or_else(|| format!("state={value:?}: use {}", State::NAMES.join(", ")))
}

fn parse_sort(value: &str) -> Result<Sort, String> {
    let (reversed, name) = match value.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, value),
    };
    let key = match name {
        "age" => SortKey::Age,
        "idle" => SortKey::Idle,
        "received" => SortKey::Received,
        "sent" => SortKey::Sent,
        "unsent" => SortKey::Unsent,
        _ => {
            return Err(format!(
                "sort={value:?}: use age, idle, received, sent or unsent, with - before it for the \
                 reverse order"
            ));
        }
    };
    Ok(Sort { key, reversed })
}

fn parse_limit(value: &str) -> Result<usize, String> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let limit = value.parse().ok().filter(|limit| digits && *limit > 0);
    limit.ok_or_else(|| format!("limit={value:?}: use a number from 1 up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_unless_the_query_says_less() {
        let query = |state, sort, limit| Ok(Query { state, sort, limit });
        let oldest = Sort { key: SortKey::Age, reversed: false };
        let idlest = Sort { key: SortKey::Unsent, reversed: true };
        assert_eq!(Query::parse(""), query(None, None, usize::MAX));
        assert_eq!(Query::parse("limit=5&"), query(None, None, 5));
        assert_eq!(Query::parse("sort=age"), query(None, Some(oldest), 100));
        assert_eq!(
            Query::parse("limit=1000&state=echoing&sort=-unsent"),
            query(Some("echoing"), Some(idlest), 1000)
        );
    }

    #[test]
    fn every_figure_of_a_row_is_a_key() {
        for (name, key) in [
            ("age", SortKey::Age),
            ("idle", SortKey::Idle),
            ("received", SortKey::Received),
            ("sent", SortKey::Sent),
            ("unsent", SortKey::Unsent),
        ] {
            for (sign, reversed) in [("", false), ("-", true)] {
                let query = Query::parse(&format!("sort={sign}{name}")).unwrap();
                assert_eq!(query.sort, Some(Sort { key, reversed }));
            }
        }
    }

    #[test]
    fn an_error_names_the_value_and_what_is_allowed() {
        for (text, value, allowed) in [
            ("state=open", "\"open\"", "await_digest"),
            ("state", "\"\"", "echoing"),
            ("sort=size", "\"size\"", "unsent"),
            ("sort=--age", "\"--age\"", "idle"),
            ("limit=0", "\"0\"", "from 1"),
            ("limit=+1", "\"+1\"", "from 1"),
            ("limit=", "\"\"", "from 1"),
            ("sort=age&limit=1001", "1001", "1000"),
            ("page=2", "\"page\"", "state, sort or limit"),
            ("limit=1&limit=1", "limit", "twice"),
        ] {
            let error = Query::parse(text).unwrap_err();
            assert!(error.contains(value) && error.contains(allowed), "{text}: {error}");
        }
    }
}
