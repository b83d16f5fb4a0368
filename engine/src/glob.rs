//! Glob patterns of KEYS, SCAN, PSUBSCRIBE, CONFIG GET and ACL rules.
//!
//! `*` any run, `?` any byte, `[abc]` `[a-c]` `[^a]` a set, `\` takes the next byte literally.
//! What Redis does with an unclosed set is kept: the set ends with the pattern.
//!
//! A star only ever goes back to the last star before a mismatch. As everything but a star takes
//! exactly one byte, the earlier stars need not be retried: the work is bounded by the product of
//! the lengths and there is no recursion for a pattern to exhaust.

use crate::known_bugs::{self, Bug};

/// Whether `pattern` matches the whole of `text`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    run::<false>(pattern, text)
}

/// Whether `pattern` matches the whole of `text` in any case.
pub fn matches_nocase(pattern: &[u8], text: &[u8]) -> bool {
    run::<true>(pattern, text)
}

/// The bytes that `pattern` must start with, and whether it is nothing but those.
pub fn literal_prefix(pattern: &[u8]) -> (&[u8], bool) {
    match pattern.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\')) {
        Some(at) => (&pattern[..at], false),
        None => (pattern, true),
    }
}

fn run<const NOCASE: bool>(pattern: &[u8], text: &[u8]) -> bool {
    if pattern == b"*" {
        return true;
    }
    // Redis looks at a pattern only while there is text: `**` does not match the empty string.
    if text.is_empty() {
        return pattern.is_empty();
    }
    if known_bugs::is_back(Bug::GlobRecurses) {
        return recurse(pattern, text) == Some(true);
    }
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                while pattern.get(p) == Some(&b'*') {
                    p += 1;
                }
                if p == pattern.len() {
                    return true;
                }
                last_star = Some((p, t));
                continue;
            }
            Some(_) => match_one::<NOCASE>(pattern, p, text[t]),
            None => None,
        };
        match (step, last_star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((after_star, from))) => {
                last_star = Some((after_star, from + 1));
                p = after_star;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// The same by calls of itself, of which a pattern can ask for as many as it has stars: what
/// [`Bug::GlobRecurses`] puts back. `None` where an earlier star need not go further.
fn recurse(pattern: &[u8], text: &[u8]) -> Option<bool> {
    match (pattern, text) {
        ([], _) => Some(text.is_empty()),
        ([b'*', rest @ ..], _) => {
            let mut found = (0..=text.len()).map(|skip| recurse(rest, &text[skip..]));
            found.find(|found| *found != Some(false)).flatten()
        }
        (_, []) => None,
        (_, [byte, after @ ..]) => match match_one::<false>(pattern, 0, *byte) {
            Some(next) => recurse(&pattern[next..], after),
            None => Some(false),
        },
    }
}

/// Matches one byte against what stands at `pattern[p]`; where the pattern goes on if it does.
fn match_one<const NOCASE: bool>(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => match_set::<NOCASE>(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => same::<NOCASE>(pattern[p + 1], byte).then_some(p + 2),
        literal => same::<NOCASE>(literal, byte).then_some(p + 1),
    }
}

fn match_set<const NOCASE: bool>(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match &pattern[p.min(pattern.len())..] {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [from, b'-', to, ..] => {
                let (low, high) = (fold::<NOCASE>(*from.min(to)), fold::<NOCASE>(*from.max(to)));
                found |= (low..=high).contains(&fold::<NOCASE>(byte));
                p += 3;
            }
            [literal, ..] => {
                found |= same::<NOCASE>(*literal, byte);
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

fn fold<const NOCASE: bool>(byte: u8) -> u8 {
    if NOCASE { byte.to_ascii_lowercase() } else { byte }
}

fn same<const NOCASE: bool>(a: u8, b: u8) -> bool {
    fold::<NOCASE>(a) == fold::<NOCASE>(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, by recursion.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.first() {
            None => text.is_empty(),
            Some(b'*') => (0..=text.len()).any(|skip| slow(&pattern[1..], &text[skip..])),
            Some(_) if text.is_empty() => false,
            Some(_) => match_one::<false>(pattern, 0, text[0])
                .is_some_and(|next| slow(&pattern[next..], &text[1..])),
        }
    }

    #[test]
    fn patterns_of_each_form() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("**", "", false),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*llo*", "hllo", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h\\?llo", "h?llo", true),
            ("h\\?llo", "hello", false),
            ("a\\", "a\\", true),
            ("[\\]]", "]", true),
            ("[abc", "b", true),
            ("[", "[", false),
            ("[^", "x", true),
            ("[a-]", "c", false),
            ("[a-]", "^", true),
            ("[]", "x", false),
            ("a*b*c", "axbxbxc", true),
            ("*a*", "bbb", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(matches_nocase(b"MAX*[A-C]", b"maxMemoryB"));
        assert!(!matches(b"MAX*", b"maxmemory"));
    }

    #[test]
    fn many_stars_take_polynomial_time() {
        let pattern = b"a*".repeat(5_000);
        let mut text = vec![b'a'; 20_000];
        text.push(b'b');
        assert!(matches(&pattern, &text));
        let mut pattern = pattern;
        pattern.extend_from_slice(b"c");
        assert!(!matches(&pattern, &text));
    }

    proptest! {
        #[test]
        fn as_the_definition_says(pattern in "[abc*?\\[\\]^\\\\-]{0,10}", text in "[abc*\\\\-]{1,10}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), slow(pattern, text));
        }

        #[test]
        fn any_bytes_are_safe(pattern: Vec<u8>, text: Vec<u8>) {
            matches(&pattern, &text);
            matches_nocase(&pattern, &text);
        }
    }
}
