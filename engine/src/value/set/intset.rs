//! A small set of integers.
//!
//! ```text
//! width u8 (2, 4 or 8)   members, ascending, little-endian, each of that width
//! ```
//! The width is the smallest that fits all members that were ever added: it grows, and does not
//! shrink, as in Redis.

use crate::value::blob::Blob;

/// Longest run of bytes that a set of one member takes.
pub const ONE_MAX: usize = 9;

fn width_of(member: i64) -> usize {
    if i16::try_from(member).is_ok() {
        2
    } else if i32::try_from(member).is_ok() {
        4
    } else {
        8
    }
}

fn width(bytes: &[u8]) -> usize {
    bytes.first().map_or(2, |&width| width as usize)
}

/// A set with one member: the bytes and their number.
pub fn one(member: i64) -> ([u8; ONE_MAX], usize) {
    let width = width_of(member);
    let mut bytes = [0; ONE_MAX];
    bytes[0] = width as u8;
    bytes[1..=width].copy_from_slice(&member.to_le_bytes()[..width]);
    (bytes, 1 + width)
}

/// Number of members.
pub fn len(bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(1) / width(bytes).max(1)
}

/// The member at a position.
#[inline]
pub fn get(bytes: &[u8], position: usize) -> Option<i64> {
    let body = bytes.get(1..)?;
    match width(bytes) {
        2 => Some(i16::from_le_bytes(*body.get(position * 2..)?.first_chunk()?).into()),
        4 => Some(i32::from_le_bytes(*body.get(position * 4..)?.first_chunk()?).into()),
        _ => Some(i64::from_le_bytes(*body.get(position * 8..)?.first_chunk()?)),
    }
}

/// The position of a member, or where it would be.
#[inline]
pub fn find(bytes: &[u8], member: i64) -> Result<usize, usize> {
    let (mut low, mut high) = (0, len(bytes));
    // Integers often come in ascending order.
    if high > 0 && get(bytes, high - 1).is_some_and(|last| last < member) {
        return Err(high);
    }
    while low < high {
        let middle = low.midpoint(high);
        match get(bytes, middle) {
            Some(found) if found == member => return Ok(middle),
            Some(found) if found < member => low = middle + 1,
            _ => high = middle,
        }
    }
    Err(low)
}

/// Whether it is a member.
pub fn contains(bytes: &[u8], member: i64) -> bool {
    find(bytes, member).is_ok()
}

/// Adds a member at the position that [`find`] gave.
pub fn insert_at(blob: &mut (impl Blob + ?Sized), position: usize, member: i64) {
    let old_width = width(blob.bytes());
    let new_width = width_of(member);
    if new_width <= old_width {
        let body = &member.to_le_bytes()[..old_width];
        return blob.splice(1 + position * old_width, 0, &[body]);
    }
    let members = len(blob.bytes());
    let mut wider = Vec::with_capacity(1 + (members + 1) * new_width);
    wider.push(new_width as u8);
    let mut push = |member: i64| wider.extend_from_slice(&member.to_le_bytes()[..new_width]);
    for at in 0..=members {
        if at == position {
            push(member);
        }
        if let Some(member) = get(blob.bytes(), at) {
            push(member);
        }
    }
    let old_size = blob.bytes().len();
    blob.splice(0, old_size, &[&wider]);
}

/// Adds a member. Returns whether it is new.
pub fn insert(blob: &mut (impl Blob + ?Sized), member: i64) -> bool {
    let position = find(blob.bytes(), member);
    if let Err(position) = position {
        insert_at(blob, position, member);
    }
    position.is_err()
}

/// Removes the member at a position.
pub fn remove_at(blob: &mut (impl Blob + ?Sized), position: usize) {
    let width = width(blob.bytes());
    blob.splice(1 + position * width, width, &[]);
}

/// Removes a member. Returns whether it was there.
pub fn remove(blob: &mut (impl Blob + ?Sized), member: i64) -> bool {
    let position = find(blob.bytes(), member);
    if let Ok(position) = position {
        remove_at(blob, position);
    }
    position.is_ok()
}

/// The members, ascending.
pub fn iter(bytes: &[u8]) -> Iter<'_> {
    Iter { bytes, position: 0 }
}

/// Whether `bytes` are a set of integers with at least one member.
pub fn validate(bytes: &[u8]) -> bool {
    let Some(&width) = bytes.first() else { return false };
    matches!(width, 2 | 4 | 8)
        && bytes.len() > 1
        && (bytes.len() - 1).is_multiple_of(width as usize)
        && iter(bytes).is_sorted_by(|a, b| a < b)
}

/// The members of a small set of integers.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Iterator for Iter<'_> {
    type Item = i64;

    #[inline]
    fn next(&mut self) -> Option<i64> {
        let member = get(self.bytes, self.position)?;
        self.position += 1;
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(bytes: &[u8]) -> Vec<i64> {
        iter(bytes).collect()
    }

    #[test]
    fn members_are_sorted_and_the_width_grows() {
        let (bytes, size) = one(5);
        let mut set = bytes[..size].to_vec();
        for (member, size) in [
            (-7, 5),
            (i64::from(i16::MAX), 7),
            (-32_769, 17),
            (6, 21),
            (i64::MIN, 49),
            (i64::MAX, 57),
            (-1, 65),
        ] {
            assert!(insert(&mut set, member));
            assert!(!insert(&mut set, member));
            assert_eq!(set.len(), size);
            assert!(validate(&set));
        }
        assert_eq!(members(&set), [i64::MIN, -32_769, -7, -1, 5, 6, 32_767, i64::MAX]);
        assert!(contains(&set, -7) && !contains(&set, 7));
        assert!(remove(&mut set, i64::MIN) && !remove(&mut set, i64::MIN));
        assert!(remove(&mut set, i64::MAX));
        assert_eq!(members(&set), [-32_769, -7, -1, 5, 6, 32_767]);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in
            [&[][..], &[2], &[2, 1], &[3, 1, 0, 0], &[2, 1, 0, 1, 0], &[2, 2, 0, 1, 0], &[0, 1]]
        {
            assert!(!validate(bad), "{bad:?}");
            let _ = (len(bad), get(bad, 0), find(bad, 1));
        }
        assert!(validate(&[2, 1, 0, 2, 0]));
    }
}
