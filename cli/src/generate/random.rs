//! Randomness that is the same on every machine and with every version of the `rand` crate: ChaCha8's stream is
//! specified, and what we draw from it is plain arithmetic.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// A seeded source.
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 0 to `bound`, exclusive; 0 where `bound` is 0. The bias of the multiplication is below 2^-32 for our bounds.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// `from` to `to`, both inclusive.
    pub(super) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from) as u64 + 1) as i64
    }

    /// True in `per_mille` of 1,000 cases.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Around `typical`, with a long tail: a third to six times of it, most near it.
    pub(super) fn around(&mut self, typical: i64) -> i64 {
        let percent = match self.below(10) {
            0 => self.between(180, 600),
            1..=3 => self.between(33, 80),
            _ => self.between(70, 190),
        };
        (typical * percent / 100).max(1)
    }
}

/// A number that depends on nothing but these (SplitMix64's finaliser, Steele et al. 2014).
pub(super) fn mix(seed: u64, a: u64, b: u64) -> u64 {
    let mut z = seed ^ a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
