//! How often keys were used of late, roughly: a count-min sketch that ages.
//!
//! A count is the smaller of two places that the key's hash chooses; keys that share places make it too
//! high, never too low. Once as many uses have been counted as there are places times eight, all counts
//! are halved (Einziger et al., "TinyLFU", 2015).

/// Places at first; allocated with the first use.
const PLACES: usize = 1 << 12;
/// Most places.
const PLACES_MAX: usize = 1 << 20;
/// Places for each key that is counted, at least: keys that left memory are counted as well once they are
/// back, and with less the many that are used once would make each other look frequent.
const PLACES_PER_KEY: usize = 4;

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
        if self.counts.is_empty() {
            self.counts = vec![0; PLACES];
        }
        while self.counts.len() < PLACES_MAX && self.counts.len() < keys * PLACES_PER_KEY {
            // Each place becomes two, both with its count: those of a key are among them.
            self.counts.extend_from_within(..);
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
    }

    #[test]
    fn counts_stay_when_there_are_more_keys() {
        let mut sketch = Sketch::default();
        let hash = 0x1234_5678_9ABC_DEF0;
        (0..40).for_each(|_| _ = sketch.add(hash, 1));
        sketch.add(1, 1_000_000);
        assert_eq!((sketch.count(hash), sketch.counts.len()), (40, PLACES_MAX));
    }
}
