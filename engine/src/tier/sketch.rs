//! How often keys were used of late, roughly: a count-min sketch that ages.
//!
//! A count is the smaller of two places that the key's hash chooses; keys that share places make it too
//! high, never too low. Once as many uses have been counted as there are places times eight, all counts
//! are halved (Einziger et al., "TinyLFU", 2015).

/// Places at first; allocated with the first use.
const PLACES: usize = 1 << 12;
/// Most places.
const PLACES_MAX: usize = 1 << 18;

/// Counts of uses by hash.
#[derive(Default)]
pub(crate) struct Sketch {
    counts: Vec<u8>,
    added: usize,
}

impl Sketch {
    #[inline]
    fn places(&self, hash: u64) -> (usize, usize) {
        let mask = self.counts.len() - 1;
        (hash as usize & mask, (hash >> 32).wrapping_mul(0x9E37_79B9) as usize & mask)
    }

    /// How often the key was used.
    pub fn count(&self, hash: u64) -> u8 {
        if self.counts.is_empty() {
            return 0;
        }
        let (one, two) = self.places(hash);
        self.counts[one].min(self.counts[two])
    }

    /// Counts a use and returns how many there were. `keys` is how many keys are being counted.
    #[inline]
    pub fn add(&mut self, hash: u64, keys: usize) -> u8 {
        if self.counts.is_empty() || (keys > self.counts.len() && self.counts.len() < PLACES_MAX) {
            // What was counted is lost when it grows: the counts are of late uses only.
            let places = (keys * 2).next_power_of_two().clamp(PLACES, PLACES_MAX);
            *self = Sketch { counts: vec![0; places], added: 0 };
        }
        let (one, two) = self.places(hash);
        let count = self.counts[one].min(self.counts[two]).saturating_add(1);
        self.counts[one] = self.counts[one].max(count);
        self.counts[two] = self.counts[two].max(count);
        self.added += 1;
        if self.added >= self.counts.len() * 8 {
            self.added = 0;
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
        count
    }

    /// Forgets the uses of a key.
    pub fn clear(&mut self, hash: u64) {
        if !self.counts.is_empty() {
            let (one, two) = self.places(hash);
            (self.counts[one], self.counts[two]) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_never_too_low_and_age() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.count(7), 0);
        for nth in 1..=90 {
            assert_eq!(sketch.add(7 << 20, 1), nth);
        }
        for hash in 0..PLACES as u64 * 8 {
            sketch.add(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15), 1);
        }
        assert!((45..90).contains(&sketch.count(7 << 20)), "{}", sketch.count(7 << 20));
        sketch.clear(7 << 20);
        assert_eq!(sketch.count(7 << 20), 0);
    }
}
