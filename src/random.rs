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
    fates: Option<Box<Fates>>,
}

/// Chances by their number.
#[derive(Clone, Debug, Default)]
struct Fates {
    count: u32,
    /// Those that come true, in the place of those that the sequence has.
    chosen: Option<Vec<u32>>,
    /// Those that came true.
    met: Vec<u32>,
}

impl SplitMix {
    /// The sequence of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed, tape: Vec::new(), fates: None }
    }

    /// One number for every two of these bytes, then the sequence of the seed zero.
    pub fn from_tape(bytes: &[u8]) -> Self {
        let words = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        Self { state: 0, tape: words.rev().collect(), fates: None }
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
        if thousandths == 0 {
            return false;
        }
        let drawn = self.below(1000) < thousandths as usize;
        let Some(fates) = &mut self.fates else { return drawn };
        let number = fates.count;
        fates.count += 1;
        let is_true = fates.chosen.as_ref().map_or(drawn, |chosen| chosen.contains(&number));
        if is_true {
            fates.met.push(number);
        }
        is_true
    }

    /// Numbers the chances from here on. With a choice those come true that it names, and no others; the
    /// rest of the sequence stays as it is.
    pub fn number_chances(&mut self, chosen: Option<Vec<u32>>) {
        self.fates = Some(Box::new(Fates { chosen, ..Fates::default() }));
    }

    /// The numbered chances that came true.
    pub fn true_chances(&self) -> &[u32] {
        self.fates.as_ref().map_or(&[], |fates| &fates.met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_chances_leave_the_rest_of_the_sequence_alone() {
        let run = |random: &mut SplitMix| -> (Vec<bool>, u64) {
            let chances = (0..50).map(|_| random.chance(200)).collect();
            (chances, random.next_u64())
        };
        let (drawn, next) = run(&mut SplitMix::new(7));
        let mut random = SplitMix::new(7);
        random.number_chances(None);
        assert_eq!(run(&mut random), (drawn.clone(), next));
        let met = random.true_chances().to_vec();
        assert!(met.len() > 3 && drawn[met[0] as usize]);
        for chosen in [met.clone(), vec![met[1]], Vec::new()] {
            let mut random = SplitMix::new(7);
            random.number_chances(Some(chosen.clone()));
            let (chances, after) = run(&mut random);
            assert_eq!(chances.iter().filter(|is_true| **is_true).count(), chosen.len());
            assert_eq!((random.true_chances(), after), (chosen.as_slice(), next));
        }
    }
}
