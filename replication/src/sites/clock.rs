//! The hybrid logical clock of a site (Kulkarni, Demirbas et al., OPODIS 2014).
//!
//! A stamp is 48 bits of Unix milliseconds and 16 bits of a counter. It never goes back, whatever the
//! wall clock does: where the clock stands still or jumps back, the counter goes on, and carries into
//! the milliseconds where it is full. A stamp that comes from another site moves the clock up to it,
//! so that a write which has seen another always has the larger stamp: a site whose clock runs
//! ahead cannot make others lose what they write later.

use crate::bug;

/// Bits of the counter.
const COUNTER_BITS: u32 = 16;
/// The largest stamp that is taken from elsewhere: the year 6429. What is above is damage, and would
/// leave no room for later stamps.
pub const STAMP_MAX: u64 = 1 << 63;

/// A clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    last: u64,
}

impl Clock {
    /// A clock that has given stamps up to `last`.
    pub fn new(last: u64) -> Clock {
        Clock { last }
    }

    /// The last stamp that was given or seen.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// A new stamp, above all before.
    pub fn tick(&mut self, now_ms: i64) -> u64 {
        self.last = match bug!(ClockGoesBack) {
            true => floor(now_ms) + 1,
            false => (self.last + 1).max(floor(now_ms)),
        };
        self.last
    }

    /// Moves up to the time: nothing that is stamped later is at or below what this returns.
    pub fn advance(&mut self, now_ms: i64) -> u64 {
        self.last = self.last.max(floor(now_ms));
        self.last
    }

    /// Moves up to a stamp of another site.
    pub fn observe(&mut self, stamp: u64) {
        self.last = self.last.max(stamp.min(STAMP_MAX));
    }

    /// How far the clock is ahead of the time: how much some site's clock was wrong.
    pub fn ahead_ms(&self, now_ms: i64) -> u64 {
        (self.last >> COUNTER_BITS).saturating_sub(u64::try_from(now_ms).unwrap_or(0))
    }
}

fn floor(now_ms: i64) -> u64 {
    u64::try_from(now_ms).unwrap_or(0).min(STAMP_MAX >> COUNTER_BITS) << COUNTER_BITS
}

/// The milliseconds of a stamp.
pub fn ms_of(stamp: u64) -> u64 {
    stamp >> COUNTER_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_never_go_back_whatever_the_clock_does() {
        let mut clock = Clock::default();
        let mut last = 0;
        for now_ms in [5, 5, 5, 3, -7, i64::MIN, 1_000_000, 2, i64::MAX, 7, i64::MAX] {
            let stamp = clock.tick(now_ms);
            assert!(stamp > last, "at {now_ms}");
            last = stamp;
        }
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let mut clock = Clock::new((7 << 16) | 0xFFFF);
        assert_eq!(clock.tick(7), 8 << 16);
        assert_eq!(clock.ahead_ms(7), 1);
    }

    #[test]
    fn what_was_seen_is_below_what_comes_next() {
        let mut clock = Clock::default();
        clock.tick(10);
        clock.observe(99 << 16);
        assert!(clock.tick(11) > 99 << 16);
        clock.observe(u64::MAX);
        assert!(clock.tick(12) > clock.ahead_ms(12), "no overflow");
    }
}
