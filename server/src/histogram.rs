//! Histograms of run times: sixteen buckets an octave, written by one thread.
//!
//! Recording is a shift, a mask and an add; the error is at most one sixteenth, which is enough for
//! percentiles that are shown to people. The edges of octaves are exact.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stats::bump;

/// Bits of a value below its highest one that choose the bucket.
const FINE_BITS: u32 = 4;
const FINE: usize = 1 << FINE_BITS;
/// Times of this many nanoseconds (2^30, about a second) and more share the last octave's end.
const NANOS_MAX: u64 = (1 << 30) - 1;
const BUCKETS: usize = FINE * (30 - FINE_BITS as usize + 1);

/// The bucket of a time.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min(NANOS_MAX);
    if nanos < FINE as u64 {
        return nanos as usize;
    }
    let octave = 63 - nanos.leading_zeros() - FINE_BITS;
    let fine = (nanos >> octave) as usize & (FINE - 1);
    (octave as usize + 1) * FINE + fine
}

/// The least time that is above a bucket's.
fn end_of(bucket: usize) -> u64 {
    let (octave, fine) = (bucket / FINE, bucket % FINE);
    match octave.checked_sub(1) {
        None => fine as u64 + 1,
        Some(shift) => ((FINE + fine + 1) as u64) << shift,
    }
}

/// A histogram that one thread writes and others read.
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Histogram {
    /// Counts a time, `times` times.
    #[inline]
    pub fn record(&self, nanos: u64, times: u64) {
        bump(&self.counts[bucket(nanos)], times);
    }
}

/// Sums of histograms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramTotals {
    counts: Box<[u64]>,
}

impl Default for HistogramTotals {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into() }
    }
}

impl HistogramTotals {
    /// Adds a histogram.
    pub fn add(&mut self, histogram: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
    }

    /// Takes away what was there before.
    pub fn subtract(&mut self, base: &Self) {
        for (sum, base) in self.counts.iter_mut().zip(&base.counts) {
            *sum = sum.saturating_sub(*base);
        }
    }

    /// How many times were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time that `percent` of the recorded ones do not exceed, in nanoseconds.
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = (self.count() as f64 * percent.clamp(0.0, 100.0) / 100.0).round().max(1.0);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted {
                return end_of(bucket) - 1;
            }
        }
        0
    }

    /// The cumulative distribution in doubling steps of microseconds, as LATENCY HISTOGRAM shows
    /// it: only the steps at which the count grows.
    pub fn doubling_micros(&self) -> Vec<(u64, u64)> {
        let mut steps = Vec::new();
        let (mut edge, mut seen, mut shown) = (1024u64, 0, 0);
        for (bucket, count) in self.counts.iter().enumerate() {
            while end_of(bucket) > edge {
                if seen > shown {
                    steps.push((label(edge), seen));
                    shown = seen;
                }
                edge *= 2;
            }
            seen += count;
        }
        if seen > shown {
            steps.push((label(edge), seen));
        }
        steps
    }
}

/// The name of a step in microseconds; Redis's histogram, which has 128 buckets an octave, names a
/// step by the end of the bucket in which the edge lies.
fn label(edge_nanos: u64) -> u64 {
    (edge_nanos + edge_nanos / 128 - 1) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(times: &[u64]) -> HistogramTotals {
        let histogram = Histogram::default();
        for nanos in times {
            histogram.record(*nanos, 1);
        }
        let mut totals = HistogramTotals::default();
        totals.add(&histogram);
        totals
    }

    #[test]
    fn buckets_are_ordered_and_contain_their_times() {
        let mut last = 0;
        for nanos in (0..4_096).chain((12..30).flat_map(|bit| [(1 << bit) - 1, 1 << bit])) {
            let own = bucket(nanos);
            assert!(own >= last && own < BUCKETS);
            assert!(nanos < end_of(own), "{nanos}");
            assert!(own == 0 || nanos >= end_of(own - 1), "{nanos}");
            last = own;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_close() {
        let times: Vec<u64> = (1..=1000).map(|micros| micros * 1000).collect();
        let totals = totals(&times);
        for (percent, exact) in [(50.0, 500_000.0), (99.0, 990_000.0), (100.0, 1_000_000.0)] {
            let shown = totals.percentile(percent) as f64;
            assert!((shown / exact - 1.0).abs() < 1.0 / 16.0, "{percent}: {shown}");
        }
        assert_eq!(HistogramTotals::default().percentile(50.0), 0);
    }

    #[test]
    fn steps_double_and_are_cumulative() {
        let totals = totals(&[100, 1_500, 1_600, 7_000, 30_000, 1_000_000, 60_000]);
        assert_eq!(totals.doubling_micros(), [(1, 1), (2, 3), (8, 4), (33, 5), (66, 6), (1056, 7)]);
        assert!(HistogramTotals::default().doubling_micros().is_empty());
    }
}
