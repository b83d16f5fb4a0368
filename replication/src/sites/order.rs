//! The places of a list's items: names whose order is the list's.
//!
//! ```text
//! place   one or more of   number u64 | stamp u64 | site u16      all big-endian
//! ```
//! An item at an end gets the next number above or below; one between two others gets a number
//! between theirs, or goes one level deeper below the first. The stamp makes a place unique, so that
//! items that two sites put into the same gap are both kept, in one order at every site.

use super::element::SiteId;

/// Bytes of a level.
const LEVEL: usize = 18;
const MIDDLE: u64 = 1 << 63;

fn level(number: u64, stamp: u64, site: SiteId) -> [u8; LEVEL] {
    let mut level = [0; LEVEL];
    level[..8].copy_from_slice(&number.to_be_bytes());
    level[8..16].copy_from_slice(&stamp.to_be_bytes());
    level[16..].copy_from_slice(&site.to_be_bytes());
    level
}

/// The number of a place's level that starts at `at`.
fn number(place: &[u8], at: usize) -> Option<u64> {
    let bytes = place.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// A place between two others, either of which may be missing; `stamp` has not been used for
/// another one.
pub fn between(before: Option<&[u8]>, after: Option<&[u8]>, stamp: u64, site: SiteId) -> Vec<u8> {
    match (before, after) {
        (None, None) => level(MIDDLE, stamp, site).to_vec(),
        (None, Some(after)) => below(after, 0, stamp, site),
        (Some(before), None) => match number(before, 0).and_then(|first| first.checked_add(1)) {
            Some(next) => level(next, stamp, site).to_vec(),
            None => deeper(before, MIDDLE, stamp, site),
        },
        (Some(before), Some(after)) if after.starts_with(before) => {
            below(after, before.len(), stamp, site)
        }
        (Some(before), Some(after)) => {
            // The next number on the level of `before`, if that stays below `after`.
            let last = before.len().saturating_sub(LEVEL);
            let next = number(before, last).and_then(|number| number.checked_add(1));
            let beside = next.map(|next| {
                let mut place = before[..last].to_vec();
                place.extend_from_slice(&level(next, stamp, site));
                place
            });
            match beside {
                Some(place) if *place < *after => place,
                _ => deeper(before, MIDDLE, stamp, site),
            }
        }
    }
}

/// A place below `after`, whose first `shared` bytes it shares.
fn below(after: &[u8], shared: usize, stamp: u64, site: SiteId) -> Vec<u8> {
    let mut at = shared.min(after.len());
    // A level of zeros has no room before it: it was put there to go deeper.
    while after.get(at..at + LEVEL).is_some_and(|level| level.iter().all(|byte| *byte == 0)) {
        at += LEVEL;
    }
    match number(after, at) {
        Some(number) if number > 0 => deeper(&after[..at], number - 1, stamp, site),
        _ => {
            let mut place = after[..at].to_vec();
            place.extend_from_slice(&level(0, 0, 0));
            place.extend_from_slice(&level(MIDDLE, stamp, site));
            place
        }
    }
}

fn deeper(prefix: &[u8], number: u64, stamp: u64, site: SiteId) -> Vec<u8> {
    let mut place = prefix.to_vec();
    place.extend_from_slice(&level(number, stamp, site));
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_place_is_between_its_neighbours(gaps in prop::collection::vec(any::<u16>(), 1..60)) {
            let mut places: Vec<Vec<u8>> = Vec::new();
            for (nth, gap) in gaps.iter().enumerate() {
                let at = usize::from(*gap) % (places.len() + 1);
                let before = at.checked_sub(1).map(|at| places[at].as_slice());
                let after = places.get(at).map(Vec::as_slice);
                let place = between(before, after, nth as u64 + 1, gap % 3);
                prop_assert!(before.is_none_or(|before| before < &*place));
                prop_assert!(after.is_none_or(|after| &*place < after));
                places.insert(at, place);
            }
        }
    }

    #[test]
    fn items_at_the_ends_have_short_places() {
        let mut place = between(None, None, 1, 1);
        for stamp in 2..1_000 {
            place = between(Some(&place), None, stamp, 1);
            assert_eq!(place.len(), LEVEL);
        }
    }
}
