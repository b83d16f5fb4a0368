//! How recently or how often a key was used: 32 bits in its entry, after Redis's two schemes.
//!
//! With an LRU policy (and with none) the bits are the second of the last access. With an LFU
//! policy they are the minute of the last decay (upper 16 of 24 bits) and a logarithmic counter
//! (lower 8), as described in Redis's documentation of key eviction.

/// Which scheme is in use; it follows from `maxmemory-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessScheme {
    /// Second of the last access.
    #[default]
    Recency,
    /// Logarithmic, decaying counter of accesses.
    Frequency,
}

/// Counter that a new key starts with, so that it is not evicted at once.
pub const FREQUENCY_INITIAL: u8 = 5;

/// Settings of the frequency scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrequencySettings {
    /// `lfu-log-factor`: the higher, the more accesses it takes to saturate the counter.
    pub log_factor: u32,
    /// `lfu-decay-time`: minutes without access that cost one count; 0 is no decay.
    pub decay_minutes: u32,
}

impl Default for FrequencySettings {
    fn default() -> Self {
        FrequencySettings { log_factor: 10, decay_minutes: 1 }
    }
}

/// The access data of a key that was created or read now under the recency scheme.
pub fn recency(now_ms: i64) -> u32 {
    (now_ms / 1000) as u32
}

/// Milliseconds since the last access under the recency scheme, in steps of a second.
pub fn idle_ms(access: u32, now_ms: i64) -> u64 {
    u64::from(recency(now_ms).wrapping_sub(access)) * 1000
}

fn minute(now_ms: i64) -> u32 {
    (now_ms / 60_000) as u32 & 0xFFFF
}

/// The access data of a new key under the frequency scheme.
pub fn frequency_new(now_ms: i64) -> u32 {
    minute(now_ms) << 8 | u32::from(FREQUENCY_INITIAL)
}

/// The counter as it is now, decayed.
pub fn frequency(access: u32, now_ms: i64, settings: FrequencySettings) -> u8 {
    let counter = access as u8;
    let since = minute(now_ms).wrapping_sub(access >> 8) & 0xFFFF;
    match since.checked_div(settings.decay_minutes) {
        Some(periods) => counter.saturating_sub(periods.min(255) as u8),
        None => counter,
    }
}

/// The access data after one more access; `random` decides whether the counter goes up.
pub fn frequency_touch(access: u32, now_ms: i64, settings: FrequencySettings, random: u64) -> u32 {
    let counter = frequency(access, now_ms, settings);
    let above = f64::from(counter.saturating_sub(FREQUENCY_INITIAL));
    let chance = 1.0 / (above * f64::from(settings.log_factor) + 1.0);
    let up = (random >> 11) as f64 / (1u64 << 53) as f64;
    let counter = if up < chance { counter.saturating_add(1) } else { counter };
    minute(now_ms) << 8 | u32::from(counter)
}

/// Access data with a given counter (RESTORE ... FREQ).
pub fn frequency_with(counter: u8, now_ms: i64) -> u32 {
    minute(now_ms) << 8 | u32::from(counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_grows_slowly_and_decays() {
        let settings = FrequencySettings::default();
        let mut access = frequency_new(0);
        let mut rng = crate::stamp::Rng::new(3);
        for _ in 0..1000 {
            access = frequency_touch(access, 0, settings, rng.next_u64());
        }
        let after = frequency(access, 0, settings);
        assert!((12..=30).contains(&after), "{after}");
        assert_eq!(frequency(access, 3 * 60_000, settings), after - 3);
        assert_eq!(frequency(access, 1000 * 60_000, settings), 0);
        assert_eq!(idle_ms(recency(5_000), 65_999), 60_000);
    }
}
