//! A fast hash of bytes and words, the same on every machine: digests are compared between sites.
//!
//! Words are folded by a multiplication to 128 bits, as in wyhash. It stands up to chance and, with a
//! seed that nobody knows, to keys that are chosen to meet; it is no signature.

const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
const OTHER: u64 = 0xA076_1D64_78BD_642F;

/// Adds a word to a hash.
#[inline]
pub fn word(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ OTHER).wrapping_mul(u128::from(word ^ ODD));
    let folded = (product as u64) ^ (product >> 64) as u64;
    // A word that is the constant would lose what was there.
    folded.wrapping_add(hash.rotate_left(23))
}

/// Adds bytes to a hash.
#[inline]
pub fn bytes(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = word(hash, bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for part in words {
        hash = word(hash, u64::from_le_bytes(*part));
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = word(hash, u64::from_le_bytes(last));
    }
    word(hash, ODD.rotate_left(7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn what_differs_has_another_hash() {
        let mut seen = HashSet::new();
        for nth in 0..100_000u64 {
            assert!(seen.insert(bytes(0, format!("key:{nth}").as_bytes())));
            assert!(seen.insert(bytes(0, &nth.to_le_bytes())));
        }
        for len in (0..64).filter(|len| *len != 8) {
            assert!(seen.insert(bytes(0, &vec![0; len])), "{len} zeros");
        }
        // The low bits choose a block.
        let low: HashSet<u64> = seen.iter().map(|hash| hash & 0xFFFF).collect();
        assert!(low.len() > 60_000, "{}", low.len());
    }
}
