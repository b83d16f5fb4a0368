//! What stands for a cold key in memory: 80 bits of keyed hashes.
//!
//! ```text
//! word u64: 40 bits of the table's hash, bits reversed | 14 bits of slot | 10 bits of SipHash
//! tag u16:  16 more bits of SipHash
//! ```
//! The first 40 bits are the order in which SCAN walks the hot table, so that one step of it covers
//! the same keys in both tiers. The slot tells the shard without the key. SipHash 1-3 is keyed by the
//! engine's secret seed: who does not know it cannot look for keys that share a fingerprint.
//!
//! Reads are exact whatever the hashes do: the row holds the whole key, and a row of another key counts
//! as none. Two cold keys never share a fingerprint: a key whose fingerprint is taken stays in
//! memory. What is left to chance are calls that act on an absent key without reading (DEL, SET,
//! EXISTS, TTL): they hit another key's row if the 80 bits agree, of which 66 do not depend on the
//! slot. `docs/limits.md` has the odds.

use crate::slot;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

const HASH_BITS: u32 = 40;
const SLOT_BITS: u32 = 14;
const SIP_WORD_BITS: u32 = 64 - HASH_BITS - SLOT_BITS;

/// The fingerprint of a key. Its order is that of SCAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint {
    /// The upper 64 bits.
    pub word: u64,
    /// The lower 16 bits.
    pub tag: u16,
}

impl Fingerprint {
    /// Bytes of [`Fingerprint::to_bytes`].
    pub const BYTES: usize = 10;

    /// The fingerprint of a key whose hash in the tables is `hash`.
    pub fn new(seed: u64, hash: u64, key: &[u8]) -> Fingerprint {
        let mut sip =
            SipHasher13::new_with_keys(seed, seed.rotate_left(32) ^ 0xC01D_0FF1_CE00_0001);
        sip.write(key);
        let sip = sip.finish();
        let order = hash.reverse_bits() >> (64 - HASH_BITS);
        let slot = u64::from(slot::slot_of(key));
        let word = order << (64 - HASH_BITS) | slot << SIP_WORD_BITS | sip >> (64 - SIP_WORD_BITS);
        Fingerprint { word, tag: sip as u16 }
    }

    /// The hash slot of the key.
    pub fn slot(self) -> usize {
        (self.word >> SIP_WORD_BITS) as usize & ((1 << SLOT_BITS) - 1)
    }

    /// The bytes, whose order is that of the fingerprints.
    pub fn to_bytes(self) -> [u8; Fingerprint::BYTES] {
        let mut bytes = [0; Fingerprint::BYTES];
        bytes[..8].copy_from_slice(&self.word.to_be_bytes());
        bytes[8..].copy_from_slice(&self.tag.to_be_bytes());
        bytes
    }

    /// Reads what [`Fingerprint::to_bytes`] made.
    pub fn from_bytes(bytes: [u8; Fingerprint::BYTES]) -> Fingerprint {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        Fingerprint {
            word: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            tag: u16::from_be_bytes([i, j]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_where_they_belong() {
        for key in [&b"a"[..], b"{tag}one", b"", &[7; 300]] {
            let hash = 0x0123_4567_89AB_CDEF ^ key.len() as u64;
            let print = Fingerprint::new(9, hash, key);
            assert_eq!(print.slot(), slot::slot_of(key) as usize);
            assert_eq!(print.word >> 24, hash.reverse_bits() >> 24);
            assert_eq!(Fingerprint::from_bytes(print.to_bytes()), print);
            assert_ne!(Fingerprint::new(10, hash, key), print);
        }
    }
}
