//! Asks for memory to be brought near before it is needed.

/// Bytes of a cache line.
pub(crate) const LINE_BYTES: usize = 64;

/// Asks for the cache line at `place`. A hint: it reads nothing and cannot fault.
#[inline(always)]
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint to the processor; it never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}

/// Whether two byte strings are equal; faster than `==` for keys, which are short: no call.
#[inline(always)]
pub(crate) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let len = a.len();
    if len != b.len() {
        return false;
    }
    if !(8..=32).contains(&len) {
        return a == b;
    }
    let word = |bytes: &[u8], at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let mut differing = word(a, len - 8) ^ word(b, len - 8);
    let mut at = 0;
    while at + 8 < len {
        differing |= word(a, at) ^ word(b, at);
        at += 8;
    }
    differing == 0
}

#[cfg(test)]
mod tests {
    use super::same_bytes;

    #[test]
    fn every_differing_byte_is_seen() {
        for len in 0..70 {
            let a: Vec<u8> = (0..len).collect();
            assert!(same_bytes(&a, &a.clone()));
            assert!(!same_bytes(&a, &[a.as_slice(), b"x"].concat()));
            for at in 0..a.len() {
                let mut b = a.clone();
                b[at] ^= 0x80;
                assert!(!same_bytes(&a, &b), "{len} {at}");
            }
        }
    }
}
