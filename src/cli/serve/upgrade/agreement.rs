//! What both versions of an upgrade understand: agreed on before anything is stopped.

use saltecho::server::handover::{CAPABILITIES, FORMATS};

use super::lines::VERSION;
use super::message::{NoSense, Text};

/// The format of the records that are sent, and the additions to it that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) format: u16,
    capabilities: u64,
}

/// The reason why two versions have no format in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Disagreement {
    /// Old writes no format that new reads.
    #[error("version {theirs} reads formats {formats}, and version {VERSION} writes {FORMATS:?}")]
    OfNew { theirs: String, formats: String },
    /// Old is going to write what this version did not say that it reads.
    #[error("version {theirs} writes format {format}, and version {VERSION} reads {FORMATS:?}")]
    OfOld { theirs: String, format: u16 },
    /// Old is going to use additions that this version did not say that it knows.
    #[error(
        "version {theirs} uses additions {unknown:#x} to the format, which version {VERSION} does not \
         know"
    )]
    Capabilities { theirs: String, unknown: u64 },
    #[error(transparent)]
    NoSense(#[from] NoSense),
}

/// Adds to HELLO what this version reads.
pub(super) fn offer_all(hello: Text) -> Text {
    let formats: Vec<String> = FORMATS.iter().map(u16::to_string).collect();
    hello.with("formats", formats.join(" ")).with("capabilities", CAPABILITIES)
}

impl Agreement {
    /// The highest format that this version writes and the sender of a HELLO reads.
    pub(super) fn with_new(hello: &Text) -> Result<Self, Disagreement> {
        let formats = hello.get("formats").unwrap_or_default();
        let is_read = |format: &&u16| formats.split(' ').any(|word| word.parse() == Ok(**format));
        let Some(format) = FORMATS.iter().filter(is_read).max() else {
            return Err(Disagreement::OfNew {
                theirs: version(hello),
                formats: formats.to_owned(),
            });
        };
        let capabilities = CAPABILITIES & hello.read::<u64>("capabilities").unwrap_or(0);
        Ok(Self { format: *format, capabilities })
    }

    /// Adds it to OFFER.
    pub(super) fn add_to(self, offer: Text) -> Text {
        offer.with("format", self.format).with("capabilities", self.capabilities)
    }

    /// What the sender of an OFFER is going to write, if this version reads all of it.
    pub(super) fn with_old(offer: &Text) -> Result<Self, Disagreement> {
        let (format, theirs) = (offer.read("format")?, version(offer));
        if !FORMATS.contains(&format) {
            return Err(Disagreement::OfOld { theirs, format });
        }
        let capabilities = match offer.get("capabilities") {
            Some(_) => offer.read("capabilities")?,
            None => 0,
        };
        match capabilities & !CAPABILITIES {
            0 => Ok(Self { format, capabilities }),
            unknown => Err(Disagreement::Capabilities { theirs, unknown }),
        }
    }
}

/// The version and commit of a message's sender.
fn version(text: &Text) -> String {
    text.get("version").unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_this_version_agree() {
        let agreed = Agreement::with_new(&offer_all(Text::default())).unwrap();
        assert_eq!(Some(&agreed.format), FORMATS.iter().max());
        let offer = agreed.add_to(Text::default());
        assert_eq!(Agreement::with_old(&offer), Ok(agreed));
    }

    #[test]
    fn the_highest_format_and_the_additions_of_both_are_used() {
        let hello = Text::default().with("formats", "1 7 8").with("capabilities", u64::MAX);
        let agreed = Agreement::with_new(&hello).unwrap();
        assert_eq!(agreed, Agreement { format: 1, capabilities: CAPABILITIES });
        // One that knows of no additions gets none.
        let agreed = Agreement::with_new(&Text::default().with("formats", 1)).unwrap();
        assert_eq!(agreed.capabilities, 0);
    }

    #[test]
    fn another_format_or_addition_is_refused_with_both_versions() {
        let other = Text::default().with("version", "9.9.9 (fedcba987654)");
        let hello = other.clone().with("formats", "7 8");
        let refused = Agreement::with_new(&hello).unwrap_err().to_string();
        let words = "version 9.9.9 (fedcba987654) reads formats 7 8, and version ";
        assert!(refused.starts_with(words) && refused.contains(VERSION), "{refused}");
        let offer = other.with("format", 7);
        let refused = Agreement::with_old(&offer).unwrap_err().to_string();
        let words = "version 9.9.9 (fedcba987654) writes format 7, and version ";
        assert!(refused.starts_with(words) && refused.contains(VERSION), "{refused}");
        let offer = offer.with("format", 1).with("capabilities", 1_u64 << 63);
        let refused = Agreement::with_old(&offer).unwrap_err().to_string();
        assert!(refused.contains("uses additions 0x8000000000000000 to the format"), "{refused}");
        let offer = offer.with("capabilities", "many");
        assert_eq!(Agreement::with_old(&offer), Err(NoSense("capabilities").into()));
        assert_eq!(Agreement::with_old(&Text::default()), Err(NoSense("format").into()));
    }
}
