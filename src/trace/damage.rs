//! The place of a byte that has changed since it was written: a sum over a chunk does not only say that one
//! has, it says which.
//!
//! A change of one byte changes a CRC-32 by a word that depends on the change and on the number of bytes
//! behind it, and on nothing else. Going back from that word byte by byte, the place is where it is one that
//! a single byte makes. Two such places in a chunk of a megabyte are as likely as one in sixteen chunks.

/// The reflected polynomial of CRC-32 (ISO 3309), as in gzip.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// What each byte makes of the sum.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation)] // Below 256.
        let mut word = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            word = word >> 1 ^ if word & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[byte] = word;
        byte += 1;
    }
    table
}

/// The byte whose word begins with this one. There is one for each.
fn byte_with(first: u8) -> u8 {
    let found = TABLE.iter().position(|word| word.to_be_bytes()[0] == first);
    u8::try_from(found.expect("each first byte occurs once")).expect("the table has 256 words")
}

/// The byte of a chunk that has changed, and by which bits, if the chunk had this sum and one byte of it is
/// another now. `None` if that cannot be told.
pub(super) fn changed_byte(chunk: &[u8], sum: u32) -> Option<(usize, u8)> {
    let before: [u8; 256] =
        std::array::from_fn(|first| byte_with(u8::try_from(first).expect("there are 256 of them")));
    let mut change = crc32fast::hash(chunk) ^ sum;
    // One byte of the sum itself.
    if change.to_be_bytes().iter().filter(|byte| **byte != 0).count() == 1 {
        return None;
    }
    let mut found = None;
    for place in (0..chunk.len()).rev() {
        let byte = before[usize::from(change.to_be_bytes()[0])];
        let word = TABLE[usize::from(byte)];
        if word == change && found.replace((place, byte)).is_some() {
            return None;
        }
        change = (change ^ word) << 8 | u32::from(byte);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let chunk: Vec<u8> = (0..5000_u32).map(|n| ((n * n) >> 3).to_le_bytes()[0]).collect();
        let sum = crc32fast::hash(&chunk);
        for place in (0..chunk.len()).step_by(7) {
            for bits in [1, 0x80, 0xff, 0x5a] {
                let mut changed = chunk.clone();
                changed[place] ^= bits;
                assert_eq!(changed_byte(&changed, sum), Some((place, bits)));
            }
        }
        assert_eq!(changed_byte(&chunk, sum ^ 0x10), None, "it is in the sum");
        let mut changed = chunk.clone();
        (changed[7], changed[4000]) = (!changed[7], !changed[4000]);
        assert_eq!(changed_byte(&changed, sum), None, "two bytes");
    }
}
