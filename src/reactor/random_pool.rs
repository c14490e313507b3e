use std::io;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::auth::Challenge;

/// Random bytes of the system, drawn for many challenges with one call and wiped as they are
/// handed out. Not a generator: every byte is the system's, and if it has none there is none.
pub(super) struct RandomPool {
    bytes: Box<zeroize::Zeroizing<[u8; Self::LEN]>>,
    used: usize,
}

impl RandomPool {
    const LEN: usize = 128 * Challenge::LEN;

    pub(super) fn new() -> Self {
        Self { bytes: Box::new(zeroize::Zeroizing::new([0; Self::LEN])), used: Self::LEN }
    }

    pub(super) fn fill(&mut self, out: &mut [u8]) -> io::Result<()> {
        if out.len() > Self::LEN {
            return SysRng.try_fill_bytes(out).map_err(io::Error::other);
        }
        if out.len() > Self::LEN - self.used {
            self.used = Self::LEN;
            SysRng.try_fill_bytes(&mut self.bytes[..]).map_err(io::Error::other)?;
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + out.len()];
        out.copy_from_slice(taken);
        zeroize::Zeroize::zeroize(taken);
        self.used += out.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_draw_serves_many_challenges() {
        let mut pool = RandomPool::new();
        for _ in 0..128 {
            pool.fill(&mut [0; Challenge::LEN]).unwrap();
        }
        assert_eq!(pool.used, RandomPool::LEN);
    }

    #[test]
    fn random_bytes_are_handed_out_once_and_wiped() {
        let mut pool = RandomPool::new();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let mut bytes = [0; Challenge::LEN];
            pool.fill(&mut bytes).unwrap();
            assert!(seen.insert(bytes), "the same challenge twice");
            assert!(pool.bytes[..pool.used].iter().all(|byte| *byte == 0));
        }
        // More than the pool holds comes past it.
        let mut many = vec![0; 3 * RandomPool::LEN];
        pool.fill(&mut many).unwrap();
        assert!(many.chunks(Challenge::LEN).all(|bytes| bytes.iter().any(|byte| *byte != 0)));
    }
}
