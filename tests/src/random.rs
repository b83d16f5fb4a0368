//! A seeded generator of random numbers for tests: the same seed gives the same run for ever, which
//! no generator from elsewhere promises across versions.
//!
//! xoshiro256** (Blackman, Vigna: "Scrambled linear pseudorandom number generators", 2018), its
//! state filled by splitmix64.

use std::time::{SystemTime, UNIX_EPOCH};

/// The generator.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// A generator whose whole output follows from `seed`.
    pub fn new(seed: u64) -> Random {
        let mut at = seed;
        let state = std::array::from_fn(|_| {
            at = at.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = at;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        });
        Random { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let out = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        out
    }

    /// A number in `0..bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// The seeds of a randomised test: the fixed ones, so that every run repeats them.
/// `ASHLAR_SEED=n` replays one seed alone; `ASHLAR_FRESH=1` adds one that no run had before, which
/// is how new differences are found.
pub fn seeds(fixed: &[u64]) -> Vec<u64> {
    if let Ok(text) = std::env::var("ASHLAR_SEED") {
        return vec![text.parse().expect("ASHLAR_SEED is a number")];
    }
    let mut seeds = fixed.to_vec();
    if std::env::var_os("ASHLAR_FRESH").is_some() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        seeds.push(Random::new(now.as_nanos() as u64).bits() >> 32);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_for_ever() {
        let mut random = Random::new(1);
        let first = [random.bits(), random.bits(), random.bits()];
        assert_eq!(first, [0xB3F2_AF6D_0FC7_10C5, 0x853B_5596_4736_4CEA, 0x92F8_9756_082A_4514]);
    }

    #[test]
    fn stays_in_bounds() {
        let mut random = Random::new(2);
        let mut seen = [false; 7];
        for _ in 0..1_000 {
            seen[random.below(7)] = true;
            assert!((-3..=3).contains(&random.between(-3, 3)));
        }
        assert!(seen.iter().all(|&seen| seen));
        assert_eq!(random.below(0), 0);
    }
}
