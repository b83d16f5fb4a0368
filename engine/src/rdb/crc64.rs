//! The CRC-64 of Redis: Jones's polynomial, reflected, without inversion.

/// `0xad93d23594c935a9` with its bits reversed.
const POLYNOMIAL: u64 = 0x95AC_9329_AC4B_C9B5;

/// What each byte contributes, at each of eight distances from the end.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut distance = 1;
    while distance < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[distance - 1][byte];
            tables[distance][byte] = tables[0][(before & 0xFF) as usize] ^ before >> 8;
            byte += 1;
        }
        distance += 1;
    }
    tables
}

/// The checksum of what `sum` is the checksum of, followed by `bytes`. It starts at 0.
pub fn update(mut sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mixed = (sum ^ u64::from_le_bytes(*word)).to_le_bytes();
        sum = 0;
        for (nth, byte) in mixed.iter().enumerate() {
            sum ^= TABLES[7 - nth][*byte as usize];
        }
    }
    for byte in rest {
        sum = TABLES[0][(sum as u8 ^ byte) as usize] ^ sum >> 8;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_that_of_redis() {
        assert_eq!(update(0, b"123456789"), 0xE9C6_D914_C4B8_D9CA);
        let text = b"This is a test of the emergency broadcast system.";
        let halves = update(update(0, &text[..20]), &text[20..]);
        assert_eq!(halves, update(0, text));
    }
}
