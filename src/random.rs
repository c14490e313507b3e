//! A random sequence that follows from its seed alone.

/// SplitMix64 (Steele, Lea and Flood, 2014): a small generator whose sequence will never change
/// under a seed that was written down. For simulation and test data, not for secrets.
///
/// It can begin with a tape of choices made elsewhere, by a fuzzer for example.
#[derive(Clone, Debug)]
pub struct SplitMix {
    state: u64,
    /// In reverse.
    tape: Vec<u16>,
}

impl SplitMix {
    /// The sequence of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed, tape: Vec::new() }
    }

    /// One number for every two of these bytes, then the sequence of the seed zero.
    pub fn from_tape(bytes: &[u8]) -> Self {
        let words = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        Self { state: 0, tape: words.rev().collect() }
    }

    /// True once every number left is the seed's.
    pub fn tape_is_over(&self) -> bool {
        self.tape.is_empty()
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        if let Some(word) = self.tape.pop() {
            return word.into();
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which must not be zero.
    #[allow(clippy::cast_possible_truncation)] // It is below a usize.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next_u64() % limit as u64) as usize
    }

    /// True in this many thousandths of the cases.
    pub fn chance(&mut self, thousandths: u32) -> bool {
        // A chance of zero draws no number, so switching one fault off changes the rest of a run
        // as little as possible.
        thousandths > 0 && self.below(1000) < thousandths as usize
    }
}
