//! Sets of hash slots, as ranges.

use super::codec::{push_number, read_number};
use crate::bytes::{Malformed, Reader};
use crate::topology::{SlotRange, ranges};
use ashlar_engine::slot::SLOTS;

/// A set of hash slots: ranges in ascending order, with slots between them that are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots(Vec<SlotRange>);

impl Slots {
    /// The slots of ranges, in whatever order.
    ///
    /// # Panics
    /// If there is no such slot, or a range ends before it begins; so do the others.
    pub fn new(all: &[SlotRange]) -> Slots {
        Slots::default().with(all)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a slot is in it.
    pub fn contains(&self, slot: u16) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < slot);
        self.0.get(at).is_some_and(|(first, _)| *first <= slot)
    }

    fn changed(&self, some: &[SlotRange], to: bool) -> Slots {
        let mut all = [false; SLOTS as usize];
        let mut fill = |(first, last): &SlotRange, to: bool| {
            all[usize::from(*first)..=usize::from(*last)].fill(to);
        };
        self.0.iter().for_each(|range| fill(range, true));
        some.iter().for_each(|range| fill(range, to));
        Slots(ranges((0..SLOTS).filter(|slot| all[usize::from(*slot)])))
    }

    /// These slots and others.
    #[must_use]
    pub fn with(&self, more: &[SlotRange]) -> Slots {
        self.changed(more, true)
    }

    /// These slots without some.
    #[must_use]
    pub fn without(&self, some: &[SlotRange]) -> Slots {
        self.changed(some, false)
    }

    /// The slots that are in both.
    #[must_use]
    pub fn and(&self, other: &Slots) -> Slots {
        Slots(ranges((0..SLOTS).filter(|slot| self.contains(*slot) && other.contains(*slot))))
    }

    /// Appends the form that travels between sites.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_number(out, self.0.len() as u64);
        for (first, last) in &self.0 {
            push_number(out, u64::from(*first));
            push_number(out, u64::from(*last));
        }
    }

    /// Reads that form.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Slots, Malformed> {
        let count = read_number(reader)?;
        if count > u64::from(SLOTS) {
            return Err(Malformed);
        }
        let mut all: Vec<SlotRange> = Vec::new();
        for _ in 0..count {
            let slot = |reader: &mut Reader<'_>| {
                u16::try_from(read_number(reader)?)
                    .ok()
                    .filter(|slot| *slot < SLOTS)
                    .ok_or(Malformed)
            };
            let range = (slot(reader)?, slot(reader)?);
            let after = all.last().is_none_or(|(_, last)| *last < range.0);
            if range.0 > range.1 || !after {
                return Err(Malformed);
            }
            all.push(range);
        }
        Ok(Slots(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_slots_are_added_taken_away_and_read_back() {
        let slots = Slots::new(&[(10, 20), (0, 3), (15, 30)]);
        assert_eq!(slots.ranges(), [(0, 3), (10, 30)]);
        for (slot, is_in) in [(0, true), (3, true), (4, false), (9, false), (30, true), (31, false)]
        {
            assert_eq!(slots.contains(slot), is_in, "{slot}");
        }
        assert_eq!(slots.without(&[(2, 11)]).ranges(), [(0, 1), (12, 30)]);
        assert_eq!(slots.and(&Slots::new(&[(3, 12)])).ranges(), [(3, 3), (10, 12)]);
        assert!(slots.without(&[(0, SLOTS - 1)]).is_empty());
        let mut bytes = Vec::new();
        slots.encode(&mut bytes);
        assert_eq!(Slots::decode(&mut Reader(&bytes)).unwrap(), slots);
        for bad in [&[1, 5][..], &[2, 1, 2, 2, 3], &[1, 5, 4], &[1, 0, 0xFF, 0xFF, 3]] {
            assert!(Slots::decode(&mut Reader(bad)).is_err(), "{bad:?}");
        }
    }
}
