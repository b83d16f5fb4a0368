//! All that is not deterministic about a call: when, with which random numbers, from where.

/// Filled once by the node that accepts a call; whoever runs the call again with the same stamp
/// reaches the same state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Wall-clock time, Unix milliseconds.
    pub now_ms: i64,
    /// Seed of the call's random numbers.
    pub seed: u64,
    /// The site that accepted the call.
    pub site: u16,
    /// Hybrid logical clock of the call: 48 bits of milliseconds, 16 bits of counter.
    pub clock: u64,
}

impl Stamp {
    /// The site of calls that come from a Redis primary that is followed. What expires is for the
    /// primary to say, which sends a DEL then: to such calls no key is past its expiry.
    pub const FOLLOWED: u16 = u16::MAX;
    /// The site of calls that write what was merged from other sites: they are not news to any.
    pub const MERGED: u16 = u16::MAX - 1;

    /// Sites have numbers from 1 to below this; 0 is a server without sites.
    pub const SITES: u64 = 1_024;

    /// A stamp at a time, with a seed.
    pub fn new(now_ms: i64, seed: u64) -> Stamp {
        Stamp { now_ms, seed, site: 0, clock: (now_ms as u64) << 16 }
    }
}

/// The random numbers of one call: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }
}
