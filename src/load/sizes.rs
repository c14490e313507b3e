use serde::{Deserialize, Serialize};

use super::PlanError;
use crate::random::SplitMix;

/// The sizes of messages in bytes: one, or several with their shares.
///
/// The size of a message follows from the seed, its connection and its number, so a load can be
/// repeated exactly, and the size of an answer is known before it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<SizeShare>);

/// A size, and the share of the messages that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeShare {
    /// The size in bytes.
    pub bytes: usize,
    /// Its share in parts per million.
    pub share_ppm: u32,
}

impl Sizes {
    /// All messages.
    pub const ALL_PPM: u32 = 1_000_000;

    /// Several sizes with their shares.
    ///
    /// # Errors
    /// If a share is zero, or if they do not add up to [`Sizes::ALL_PPM`].
    pub fn mixed(shares: Vec<SizeShare>) -> Result<Self, PlanError> {
        let parts = shares.iter().map(|share| u64::from(share.share_ppm));
        let has_zero = shares.iter().any(|share| share.share_ppm == 0);
        match parts.sum::<u64>() == u64::from(Self::ALL_PPM) && !has_zero {
            true => Ok(Self(shares)),
            false => Err(PlanError::Shares),
        }
    }

    /// The sizes with their shares, at least one.
    pub fn shares(&self) -> &[SizeShare] {
        &self.0
    }

    /// Returns true if messages differ in size.
    pub fn is_mixed(&self) -> bool {
        self.0.len() > 1
    }

    /// The smallest size.
    pub fn smallest(&self) -> usize {
        self.0.iter().map(|share| share.bytes).min().unwrap_or(0)
    }

    /// The largest size.
    pub fn largest(&self) -> usize {
        self.0.iter().map(|share| share.bytes).max().unwrap_or(0)
    }

    /// The mean size, rounded.
    pub fn mean(&self) -> usize {
        let all = u128::from(Self::ALL_PPM);
        let parts = self.0.iter().map(|part| part.bytes as u128 * u128::from(part.share_ppm));
        usize::try_from((parts.sum::<u128>() + all / 2) / all).unwrap_or(usize::MAX)
    }

    /// The size of one message: `stream` stands for its connection.
    pub(super) fn of(&self, seed: u64, stream: u64, message: u64) -> u64 {
        if let [only] = &self.0[..] {
            return only.bytes as u64;
        }
        // Two odd numbers from the literature on hashing keep the three arguments apart.
        let place = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = place ^ message.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let mut drawn = SplitMix::new(seed ^ place).below(Self::ALL_PPM as usize);
        for share in &self.0 {
            match drawn.checked_sub(share.share_ppm as usize) {
                Some(left) => drawn = left,
                None => return share.bytes as u64,
            }
        }
        unreachable!("the shares add up to the whole")
    }
}

impl From<usize> for Sizes {
    fn from(bytes: usize) -> Self {
        Self(vec![SizeShare { bytes, share_ppm: Self::ALL_PPM }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(parts: &[(usize, u32)]) -> Result<Sizes, PlanError> {
        let share = |&(bytes, share_ppm)| SizeShare { bytes, share_ppm };
        Sizes::mixed(parts.iter().map(share).collect())
    }

    #[test]
    fn each_size_has_its_share_and_follows_from_the_seed() {
        let sizes = mixed(&[(64, 900_000), (16 << 10, 100_000)]).unwrap();
        assert_eq!((sizes.smallest(), sizes.largest(), sizes.mean()), (64, 16 << 10, 1696));
        let draw = |seed| {
            (0..100_u64)
                .flat_map(|stream| (0..100).map(move |message| (stream, message)))
                .map(|(stream, message)| sizes.of(seed, stream, message))
                .collect::<Vec<_>>()
        };
        let drawn = draw(7);
        let large = drawn.iter().filter(|size| **size == 16 << 10).count();
        // Ten standard deviations of a binomial distribution are 300.
        assert!((700..=1300).contains(&large), "{large} of 10,000");
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
    }

    #[test]
    fn shares_make_up_the_whole() {
        for parts in [&[][..], &[(1, 999_999)], &[(1, 1_000_000), (2, 0)], &[(1, 600_000); 2]] {
            assert_eq!(mixed(parts), Err(PlanError::Shares), "{parts:?}");
        }
        assert_eq!(mixed(&[(5, 1_000_000)]), Ok(Sizes::from(5)));
        assert_eq!(Sizes::from(5).of(1, 2, 3), 5);
    }
}
