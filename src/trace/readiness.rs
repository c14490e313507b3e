use crate::reactor::Ready;

/// The bits with their letters and names, in the order in which texts have them.
const BITS: [(Ready, char, &str); 4] = [
    (Ready::READABLE, 'R', "readable"),
    (Ready::WRITABLE, 'W', "writable"),
    (Ready::PRIORITY, 'P', "urgent"),
    (Ready::CLOSED, 'C', "closed"),
];

/// Readiness in letters, `-` for a bit that is not set.
pub(super) fn letters(ready: Ready) -> String {
    BITS.iter().map(|(bit, letter, _)| if ready.has(*bit) { *letter } else { '-' }).collect()
}

/// The names of the bits that are set, as in a sentence.
pub(super) fn listed(ready: Ready) -> String {
    match names(ready).split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// The names of the bits that are set.
pub(crate) fn names(ready: Ready) -> Vec<&'static str> {
    BITS.iter().filter(|(bit, ..)| ready.has(*bit)).map(|(.., name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_written_in_letters() {
        let both = Ready::READABLE.union(Ready::CLOSED);
        for (ready, written) in [
            (Ready::NONE, "----"),
            (Ready::WRITABLE, "-W--"),
            (both, "R--C"),
            (both.union(Ready::UNKNOWN), "RWPC"),
        ] {
            assert_eq!(letters(ready), written);
        }
    }
}
