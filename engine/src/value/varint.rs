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
        assert_eq!(read(&[0x80, 0], 0), None);
        assert_eq!(read(&[0xFF; 11], 0), None);
        assert_eq!(read(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2], 0), None);
    }
}
