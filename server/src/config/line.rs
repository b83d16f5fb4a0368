//! The words of a configuration line: quotes and escapes as in `redis.conf`.

/// Splits a line into words at white space. `"..."` understands `\n \r \t \b \a \\ \" \xHH`,
/// `'...'` only `\'`. `None` if a quote is not closed or is followed by something else than a space.
pub fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii();
    while let Some(first) = rest.first() {
        let (word, after) = match first {
            b'"' | b'\'' => quoted(rest)?,
            _ => bare(rest)?,
        };
        words.push(word);
        rest = after.trim_ascii_start();
    }
    Some(words)
}

/// A word without a quote at its start; a quote inside opens a quoted part.
fn bare(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let end = text
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\''))
        .unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    if matches!(rest.first(), Some(b'"' | b'\'')) {
        let (tail, rest) = quoted(rest)?;
        return Some(([word, tail.as_slice()].concat(), rest));
    }
    Some((word.to_vec(), rest))
}

fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (quote, mut rest) = text.split_first()?;
    let mut word = Vec::new();
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        if byte == quote {
            let closed = rest.first().is_none_or(u8::is_ascii_whitespace);
            return closed.then_some((word, rest));
        }
        if *byte != b'\\' {
            word.push(*byte);
        } else if *quote == b'\'' {
            let escaped = rest.strip_prefix(b"'");
            word.push(if escaped.is_some() { b'\'' } else { b'\\' });
            rest = escaped.unwrap_or(rest);
        } else {
            let (byte, after) = escape(rest)?;
            word.push(byte);
            rest = after;
        }
    }
}

/// The byte that an escape stands for; `text` starts after the backslash.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    if let [b'x', high, low, rest @ ..] = text
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return Some((high << 4 | low, rest));
    }
    let (byte, rest) = text.split_first()?;
    let byte = match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => *other,
    };
    Some((byte, rest))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Quotes a word so that [`split`] gives it back, whatever its bytes.
pub fn quote(word: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in word {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            8 => out.extend(b"\\b"),
            7 => out.extend(b"\\a"),
            0x20..0x7f => out.push(*byte),
            _ => out.extend(format!("\\x{byte:02x}").into_bytes()),
        }
    }
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<String>> {
        let words = split(line.as_bytes())?;
        Some(words.into_iter().map(|word| String::from_utf8_lossy(&word).into()).collect())
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(words(" save  3600 1 ").unwrap(), ["save", "3600", "1"]);
        assert_eq!(words(r#"save """#).unwrap(), ["save", ""]);
        assert_eq!(
            words(r#"a "b c" 'd\'e\n' "\x41\n\q""#).unwrap(),
            ["a", "b c", "d'e\\n", "A\nq"]
        );
        assert_eq!(words(r#"k"v w" x"#).unwrap(), ["kv w", "x"]);
        assert_eq!(words(""), Some(vec![]));
        for broken in [r#"a "b"#, r#"a 'b"#, r#"a "b"c"#, "a \"\\"] {
            assert_eq!(words(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_quoted_word_reads_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(split(&quote(&all)), Some(vec![all]));
        assert_eq!(split(&quote(b"")), Some(vec![vec![]]));
    }
}
