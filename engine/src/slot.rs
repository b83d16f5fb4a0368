//! Which of the 16,384 hash slots a key belongs to.
//!
//! The slot is CRC-16/XMODEM of the key, or of what stands between the first `{` and the next `}`
//! where that is not empty, so that clients can keep related keys together.

/// Number of hash slots.
pub const SLOTS: u16 = 16_384;

/// Bytes that are folded at once.
const STRIDE: usize = 8;

/// `TABLES[n][b]`: CRC of the byte `b` with `n` zero bytes after it (Kounavis and Berry, "A
/// systematic approach to building high performance software-based CRC generators", ISCC 2005).
const TABLES: [[u16; 256]; STRIDE] = {
    let mut tables = [[0; 256]; STRIDE];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 * STRIDE {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
            if bit % 8 == 0 {
                tables[bit / 8 - 1][byte] = crc;
            }
        }
        byte += 1;
    }
    tables
};

/// CRC-16/XMODEM.
pub fn crc16(bytes: &[u8]) -> u16 {
    let (chunks, rest) = bytes.as_chunks::<STRIDE>();
    let crc = chunks.iter().fold(0, |crc: u16, chunk| {
        let [high, low] = crc.to_be_bytes();
        let mut folded = chunk.to_owned();
        folded[0] ^= high;
        folded[1] ^= low;
        let parts = folded.iter().zip(TABLES.iter().rev());
        parts.fold(0, |crc, (&byte, table)| crc ^ table[usize::from(byte)])
    });
    rest.iter().fold(crc, |crc, &byte| crc << 8 ^ TABLES[0][usize::from((crc >> 8) as u8 ^ byte)])
}

/// The hash slot of `key`.
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// The part of `key` that decides its slot.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    match memchr::memchr(b'}', &key[open + 1..]) {
        None | Some(0) => key,
        Some(len) => &key[open + 1..open + 1 + len],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_algorithm() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
        let bytes: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(37)).collect();
        for end in 0..bytes.len() {
            let bitwise = bytes[..end].iter().fold(0u16, |crc, &byte| {
                (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| match crc & 0x8000 {
                    0 => crc << 1,
                    _ => crc << 1 ^ 0x1021,
                })
            });
            assert_eq!(crc16(&bytes[..end]), bitwise);
        }
    }

    #[test]
    fn slots_as_redis_assigns_them() {
        for (key, slot) in [
            ("", 0),
            ("foo", 12182),
            ("bar", 5061),
            ("user:{1000}.following", slot_of(b"1000")),
            ("foo{}{bar}", crc16(b"foo{}{bar}") % SLOTS),
            ("foo{{bar}}zap", slot_of(b"{bar")),
            ("foo{bar}{zap}", slot_of(b"bar")),
            ("}{a", crc16(b"}{a") % SLOTS),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }
}
