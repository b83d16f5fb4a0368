//! Slots that have left a group, or are about to: seen by the threads that serve clients.
//!
//! A group's replica sets them as it applies its log, before anybody else can have the slots; a read that
//! finds its slot frozen after it ran may have come too late.

use ashlar_engine::slot::SLOTS;
use ashlar_replication::raft::GroupId;
use ashlar_replication::runtime::DATA_GROUPS_MAX;
use ashlar_replication::topology::SlotRange;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = SLOTS as usize / 64;

/// The frozen slots of each group that has any.
pub struct FrozenSlots(Box<[OnceLock<Box<[AtomicU64; WORDS]>>]>);

impl Default for FrozenSlots {
    fn default() -> FrozenSlots {
        FrozenSlots((0..=DATA_GROUPS_MAX).map(|_| OnceLock::new()).collect())
    }
}

impl FrozenSlots {
    /// Whether a slot is frozen in a group.
    #[inline]
    pub fn has(&self, group: GroupId, slot: u16) -> bool {
        let words = self.0.get(group as usize).and_then(OnceLock::get);
        words.is_some_and(|words| {
            words[usize::from(slot) / 64].load(Ordering::Acquire) >> (slot % 64) & 1 == 1
        })
    }

    /// Freezes slots of a group, or lets them go.
    pub fn set(&self, group: usize, slots: &[SlotRange], frozen: bool) {
        let Some(place) = self.0.get(group) else { return };
        if !frozen && place.get().is_none() {
            return;
        }
        let words = place.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
        for slot in slots.iter().flat_map(|(first, last)| *first..=*last) {
            let (word, bit) = (&words[usize::from(slot) / 64], 1 << (slot % 64));
            if frozen {
                word.fetch_or(bit, Ordering::AcqRel);
            } else {
                word.fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_frozen_in_their_group() {
        let frozen = FrozenSlots::default();
        frozen.set(3, &[(10, 70), (16_383, 16_383)], true);
        frozen.set(3, &[(64, 64)], false);
        frozen.set(4, &[(0, 16_383)], false);
        let seen: Vec<u16> = (0..SLOTS).filter(|slot| frozen.has(3, *slot)).collect();
        let wanted: Vec<u16> = (10..=70).filter(|slot| *slot != 64).chain([16_383]).collect();
        assert_eq!(seen, wanted);
        assert!((0..SLOTS).all(|slot| !frozen.has(4, slot) && !frozen.has(9_999, slot)));
    }
}
