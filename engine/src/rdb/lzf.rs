//! LZF, the compression of strings in a dump (the format of Marc Lehmann's LibLZF).
//!
//! ```text
//! 000nnnnn                      n + 1 literal bytes follow
//! nnnooooo oooooooo             n + 2 bytes (n from 1 to 6) from o + 1 bytes back
//! 111ooooo nnnnnnnn oooooooo    n + 9 bytes from o + 1 bytes back
//! ```

const LITERALS_MAX: usize = 32;
const DISTANCE_MAX: usize = 1 << 13;
const MATCH_MAX: usize = 264;
/// Places of the table of positions: more for longer strings.
const HASH_BITS_MIN: u32 = 6;
const HASH_BITS_MAX: u32 = 14;

/// The `len` bytes that `input` stands for; `None` if it stands for no or for other than so many.
pub fn decompress(input: &[u8], len: usize) -> Option<Vec<u8>> {
    // A reference of three bytes stands for at most 264, so the room is in proportion to the input.
    let mut out = Vec::with_capacity(len.min(input.len().saturating_mul(4)));
    let mut at = 0;
    while at < input.len() {
        let control = usize::from(input[at]);
        at += 1;
        if control < LITERALS_MAX {
            let literals = input.get(at..at + control + 1)?;
            out.extend_from_slice(literals);
            at += literals.len();
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += usize::from(*input.get(at)?);
                at += 1;
            }
            let low = usize::from(*input.get(at)?);
            at += 1;
            let from = out.len().checked_sub(((control & 31) << 8 | low) + 1)?;
            copy_within(&mut out, from, count + 2);
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

/// Appends `count` bytes from offset `from` on, where those just appended count too.
fn copy_within(out: &mut Vec<u8>, from: usize, count: usize) {
    let period = out.len() - from;
    let mut copied = 0;
    while copied < count {
        let part = period.min(count - copied);
        out.extend_from_within(from..from + part);
        copied += part;
    }
}

/// Appends `input`, compressed, to `out`; leaves it as it was and returns `false` where that would
/// not save at least four bytes.
pub fn compress(input: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let Some(limit) = input.len().checked_sub(4).map(|most| start + most) else { return false };
    let bits = (input.len().ilog2() + 1).clamp(HASH_BITS_MIN, HASH_BITS_MAX);
    let mut table = vec![0u32; 1 << bits];
    let (mut at, mut literals) = (0, 0);
    while at + 2 < input.len() {
        let word = u32::from_be_bytes([0, input[at], input[at + 1], input[at + 2]]);
        let place = (word.wrapping_mul(0x9E37_79B1) >> (32 - bits)) as usize;
        // Positions are kept plus one; strings are far shorter than 4 GiB.
        let before = std::mem::replace(&mut table[place], at as u32 + 1) as usize;
        let found = before.checked_sub(1).filter(|&from| {
            at - from <= DISTANCE_MAX && input[from..from + 3] == input[at..at + 3]
        });
        let Some(from) = found else {
            at += 1;
            continue;
        };
        push_literals(&input[literals..at], out);
        let most = (input.len() - at).min(MATCH_MAX);
        let same = input[from..].iter().zip(&input[at..at + most]).take_while(|(a, b)| a == b);
        let count = same.count();
        push_reference(at - from - 1, count, out);
        if out.len() > limit {
            break;
        }
        at += count;
        literals = at;
    }
    push_literals(&input[literals.min(input.len())..], out);
    let saves = out.len() <= limit;
    if !saves {
        out.truncate(start);
    }
    saves
}

fn push_literals(literals: &[u8], out: &mut Vec<u8>) {
    for run in literals.chunks(LITERALS_MAX) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

fn push_reference(distance: usize, count: usize, out: &mut Vec<u8>) {
    let (high, low) = ((distance >> 8) as u8, distance as u8);
    match count - 2 {
        short @ ..7 => out.extend_from_slice(&[(short as u8) << 5 | high, low]),
        long => out.extend_from_slice(&[7 << 5 | high, (long - 7) as u8, low]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        let mut texts = vec![vec![b'x'; 10_000], b"abcabcabcabcabcabcabcabc".to_vec()];
        texts.push((0..20_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect());
        let words = (0..3000u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_string());
        texts.push(words.collect::<String>().into_bytes());
        for text in texts {
            let mut out = b"before".to_vec();
            assert!(compress(&text, &mut out));
            assert!(out.len() < text.len());
            assert_eq!(decompress(&out[6..], text.len()).as_deref(), Some(&text[..]));
            assert!(decompress(&out[6..], text.len() - 1).is_none());
            assert!(decompress(&out[6..], text.len() + 1).is_none());
            assert!(decompress(&out[6..out.len() - 1], text.len()).is_none());
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut out = b"before".to_vec();
        for text in [&b""[..], b"a", b"abcd", b"0123456789abcdefghijklmnopqrstuvwxyz"] {
            assert!(!compress(text, &mut out));
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn references_before_the_start_are_refused() {
        assert!(decompress(&[0, b'a', 1 << 5, 1], 4).is_none());
        assert_eq!(decompress(&[0, b'a', 1 << 5, 0], 4).as_deref(), Some(&b"aaaa"[..]));
        assert!(decompress(&[1 << 5, 0], 3).is_none());
        assert!(decompress(&[31, 1, 2], 32).is_none());
    }
}
