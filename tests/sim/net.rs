//! The simulated network: late, lost, doubled and reordered packets, and links that are down.

use ashlar_tests::random::Random;
use std::collections::BTreeSet;

/// How bad the network is at the moment.
#[derive(Clone, Debug)]
pub struct Net {
    /// Microseconds that a packet takes: at least, and at most.
    pub delay_us: (i64, i64),
    /// Packets of a hundred that are lost.
    pub loss_percent: usize,
    /// Packets of a hundred that come twice.
    pub double_percent: usize,
    /// Links that are down, one way: (from, to).
    down: BTreeSet<(u64, u64)>,
}

impl Default for Net {
    fn default() -> Net {
        Net { delay_us: (200, 2_000), loss_percent: 0, double_percent: 0, down: BTreeSet::new() }
    }
}

impl Net {
    /// When a packet that is sent now arrives, each time that it does.
    pub fn arrivals(&self, random: &mut Random, from: u64, to: u64) -> Vec<u64> {
        if self.down.contains(&(from, to)) || random.chance(self.loss_percent) {
            return Vec::new();
        }
        let times = if random.chance(self.double_percent) { 2 } else { 1 };
        (0..times).map(|_| random.between(self.delay_us.0, self.delay_us.1) as u64).collect()
    }

    /// Takes a link down, one way.
    pub fn cut(&mut self, from: u64, to: u64) {
        self.down.insert((from, to));
    }

    /// Cuts `part` off from the others, both ways.
    pub fn partition(&mut self, part: &[u64], all: &[u64]) {
        for one in part {
            for other in all.iter().filter(|other| !part.contains(other)) {
                self.cut(*one, *other);
                self.cut(*other, *one);
            }
        }
    }

    /// Everything is as it should be again.
    pub fn heal(&mut self) {
        *self = Net::default();
    }
}
