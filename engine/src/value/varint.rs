//! Unsigned integers in as few bytes as they need: seven bits a byte, the lowest first, the top bit
//! set on all but the last.

/// Most bytes that an integer takes.
pub const MAX: usize = 10;

/// Appends `value`.
pub fn push(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads the integer at offset `at` and where it ends; `None` where the bytes are not one in its
/// shortest form.
pub fn read(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    let mut value = u64::from(first & 0x7F);
    for (index, &byte) in bytes.get(at + 1..)?.iter().take(MAX - 1).enumerate() {
        let shift = 7 * (index as u32 + 1);
        let part = u64::from(byte & 0x7F);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte < 0x80 {
            return (byte != 0).then_some((value, at + index + 2));
        }
    }
    None
}

/// Most bytes of a size that is read from the right: 35 bits hold the longest string and its tag.
pub const REVERSED_MAX: usize = 5;

/// A size of less than 2^35 in the form that is read from the right: its lowest seven bits are in the
/// last byte, and the top bit of a byte says that one more stands to its left. Also says how many
/// of the bytes it takes.
pub fn reversed(mut size: usize) -> ([u8; REVERSED_MAX], usize) {
    let width = reversed_width(size);
    let mut bytes = [0; REVERSED_MAX];
    for slot in bytes[..width].iter_mut().rev() {
        *slot = (size & 0x7F) as u8 | 0x80;
        size >>= 7;
    }
    bytes[0] &= 0x7F;
    (bytes, width)
}

/// Bytes that [`reversed`] takes.
#[inline]
pub fn reversed_width(size: usize) -> usize {
    match size {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

/// Reads the size that ends at offset `end`, and where it starts.
#[inline]
pub fn read_reversed(bytes: &[u8], end: usize) -> Option<(usize, usize)> {
    match bytes.get(end.checked_sub(1)?) {
        Some(&byte) if byte < 0x80 => return Some((usize::from(byte), end - 1)),
        _ => {}
    }
    let mut size = 0;
    let mut at = end;
    for group in 0..REVERSED_MAX {
        at = at.checked_sub(1)?;
        let byte = *bytes.get(at)?;
        size |= usize::from(byte & 0x7F) << (7 * group);
        if byte < 0x80 {
            return Some((size, at));
        }
    }
    None
}

/// Appends a signed integer, small ones of either sign in few bytes.
pub fn push_signed(out: &mut Vec<u8>, value: i64) {
    push(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Reads what [`push_signed`] wrote.
pub fn read_signed(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let (value, end) = read(bytes, at)?;
    Some(((value >> 1) as i64 ^ -((value & 1) as i64), end))
}

/// Bytes that `value` takes.
pub fn size(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_and_torn_ones_are_refused() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = vec![9];
            push(&mut out, value);
            assert_eq!(out.len(), 1 + size(value));
            assert_eq!(read(&out, 1), Some((value, out.len())));
            assert_eq!(read(&out[..out.len() - 1], 1), None);
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            push_signed(&mut out, value);
            assert_eq!(read_signed(&out, 0), Some((value, out.len())));
        }
        for value in [0, 127, 128, 16_383, 16_384, 0x1F_FFFF, 0x20_0000, 0xFFF_FFFF, 0x1000_0000] {
            let (bytes, width) = reversed(value);
            assert_eq!(read_reversed(&bytes, width), Some((value, 0)));
        }
        assert_eq!(read_reversed(&[0x81], 1), None);
        assert_eq!(read(&[0x80, 0], 0), None);
        assert_eq!(read(&[0xFF; 11], 0), None);
        assert_eq!(read(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2], 0), None);
    }
}
