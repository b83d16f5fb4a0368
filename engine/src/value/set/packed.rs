//! A small set: its members as elements of [`packed`](crate::value::packed), in insertion order.

use crate::value::blob::Blob;
use crate::value::packed::{Elem, Encoded, read, read_canonical, skip};

/// Looks for a member: its offset and where it ends, or the number of members there are.
pub fn find(bytes: &[u8], member: &Encoded<'_>) -> Result<(usize, usize), usize> {
    let (mut at, mut len) = (0, 0);
    while let Some(end) = skip(bytes, at) {
        if member.is_at(bytes, at, end) {
            return Ok((at, end));
        }
        at = end;
        len += 1;
    }
    Err(len)
}

/// Whether it is a member.
pub fn contains(bytes: &[u8], member: &[u8]) -> bool {
    find(bytes, &Encoded::new(member)).is_ok()
}

/// Number of members.
pub fn len(bytes: &[u8]) -> usize {
    let (mut at, mut len) = (0, 0);
    while let Some(next) = skip(bytes, at) {
        at = next;
        len += 1;
    }
    len
}

/// The member at a position, its offset and where it ends.
pub fn at(bytes: &[u8], position: usize) -> Option<(Elem<'_>, usize, usize)> {
    let mut at = 0;
    for _ in 0..position {
        at = skip(bytes, at)?;
    }
    let (elem, end) = read(bytes, at)?;
    Some((elem, at, end))
}

/// Adds a member that is not there yet.
pub fn push(blob: &mut (impl Blob + ?Sized), member: &Encoded<'_>) {
    let end = blob.bytes().len();
    blob.splice(end, 0, &[member.head(), member.body()]);
}

/// Removes a member. Returns whether it was there.
pub fn remove(blob: &mut (impl Blob + ?Sized), member: &[u8]) -> bool {
    let found = find(blob.bytes(), &Encoded::new(member));
    if let Ok((at, end)) = found {
        blob.splice(at, end - at, &[]);
    }
    found.is_ok()
}

/// The members in order.
pub fn iter(bytes: &[u8]) -> Iter<'_> {
    Iter { bytes, at: 0 }
}

/// Whether `bytes` are a set: whole members in canonical encoding, none twice, at least one.
pub fn validate(bytes: &[u8]) -> bool {
    let mut at = 0;
    let mut members = Vec::new();
    while at < bytes.len() {
        let Some((_, end)) = read_canonical(bytes, at) else { return false };
        members.push(&bytes[at..end]);
        at = end;
    }
    let len = members.len();
    members.sort_unstable();
    members.dedup();
    members.len() == len && len > 0
}

/// The members of a small set.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Elem<'a>;

    #[inline]
    fn next(&mut self) -> Option<Elem<'a>> {
        let (elem, end) = read(self.bytes, self.at)?;
        self.at = end;
        Some(elem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_added_and_removed() {
        let mut blob = Vec::new();
        for member in [&b"a"[..], b"10", b"bcd", b""] {
            let encoded = Encoded::new(member);
            assert_eq!(find(&blob, &encoded), Err(len(&blob)));
            push(&mut blob, &encoded);
            assert!(contains(&blob, member));
        }
        assert!(validate(&blob));
        assert_eq!(at(&blob, 1).unwrap().0, Elem::Int(10));
        assert!(at(&blob, 4).is_none());
        assert!(remove(&mut blob, b"10") && !remove(&mut blob, b"10"));
        let left: Vec<_> = iter(&blob).map(|member| member.to_vec()).collect();
        assert_eq!(left, [b"a".to_vec(), b"bcd".to_vec(), b"".to_vec()]);
        for bad in [&[][..], &[1, b'a', 1, b'a'], &[2, b'1', b'0'], &[3, 1]] {
            assert!(!validate(bad), "{bad:?}");
        }
    }
}
