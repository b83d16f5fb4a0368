//! Commands and replies as `redis-cli` writes them: arguments with its quoting, replies in the form
//! it shows on a terminal. Golden scripts and failure reports are in this form, so that a line of
//! either can be pasted into a real `redis-cli`.

use crate::resp::{Argv, Value};

/// Splits a line into arguments. Double quotes take escapes (`\n \r \t \a \b \" \\ \xHH`), single
/// quotes only `\'`. `None` if a quote is not closed, or is followed by anything but a space.
pub fn split(line: &str) -> Option<Argv> {
    let mut args = Vec::new();
    let mut rest = line.trim_ascii().as_bytes();
    while !rest.is_empty() {
        let mut arg = Vec::new();
        while let Some((&byte, tail)) = rest.split_first() {
            match byte {
                b' ' | b'\t' => break,
                b'"' | b'\'' => {
                    rest = quoted(byte, tail, &mut arg)?;
                    if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                        return None;
                    }
                }
                _ => {
                    arg.push(byte);
                    rest = tail;
                }
            }
        }
        args.push(arg);
        rest = rest.trim_ascii_start();
    }
    Some(args)
}

fn quoted<'a>(quote: u8, mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        match byte {
            _ if byte == quote => return Some(rest),
            b'\\' if quote == b'\'' => match rest.strip_prefix(b"'") {
                Some(tail) => {
                    arg.push(b'\'');
                    rest = tail;
                }
                None => arg.push(b'\\'),
            },
            b'\\' => {
                let hex = rest.strip_prefix(b"x").and_then(|digits| digits.get(..2));
                let hex = hex.and_then(|digits| std::str::from_utf8(digits).ok());
                if let Some(byte) = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    arg.push(byte);
                    rest = &rest[3..];
                    continue;
                }
                let (&byte, tail) = rest.split_first()?;
                rest = tail;
                arg.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    other => other,
                });
            }
            _ => arg.push(byte),
        }
    }
}

/// The arguments as a line that `split`, `redis-cli` and a reader understand.
pub fn join<A: AsRef<[u8]>>(args: &[A]) -> String {
    let plain = |arg: &[u8]| {
        !arg.is_empty()
            && arg.iter().all(|byte| byte.is_ascii_graphic() && !b"\"'\\".contains(byte))
    };
    let show = |arg: &A| match plain(arg.as_ref()) {
        true => String::from_utf8_lossy(arg.as_ref()).into_owned(),
        false => quote(arg.as_ref()),
    };
    args.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// A string in double quotes with escapes.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', byte as char]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            b' '..=b'~' => out.push(byte as char),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// The reply as lines, the last one ending in a newline. Verbatim strings are quoted too, unlike in
/// `redis-cli`, so that a reply never holds an empty line.
pub fn show(reply: &Value) -> String {
    let mut out = String::new();
    write(reply, "", &mut out);
    out
}

fn write(reply: &Value, prefix: &str, out: &mut String) {
    let line = match reply {
        Value::Simple(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Error(text) => format!("(error) {}", String::from_utf8_lossy(text)),
        Value::Int(number) => format!("(integer) {number}"),
        Value::Bulk(bytes) | Value::BigNumber(bytes) | Value::Verbatim(_, bytes) => quote(bytes),
        Value::Null | Value::NullArray => "(nil)".to_owned(),
        Value::Double(text) => format!("(double) {}", String::from_utf8_lossy(text)),
        Value::Bool(true) => "(true)".to_owned(),
        Value::Bool(false) => "(false)".to_owned(),
        Value::Array(items) => return write_list(items, ')', "(empty array)", prefix, out),
        Value::Set(items) => return write_list(items, '~', "(empty set)", prefix, out),
        Value::Push(items) => return write_list(items, '>', "(empty push)", prefix, out),
        Value::Map(pairs) => return write_map(pairs, prefix, out),
    };
    out.push_str(&line);
    out.push('\n');
}

fn write_list(items: &[Value], mark: char, empty: &str, prefix: &str, out: &mut String) {
    if items.is_empty() {
        out.push_str(empty);
        out.push('\n');
    }
    let width = items.len().to_string().len();
    let inner = format!("{prefix}{}", " ".repeat(width + 2));
    for (index, item) in items.iter().enumerate() {
        let start = if index == 0 { "" } else { prefix };
        out.push_str(&format!("{start}{:>width$}{mark} ", index + 1));
        write(item, &inner, out);
    }
}

fn write_map(pairs: &[(Value, Value)], prefix: &str, out: &mut String) {
    if pairs.is_empty() {
        out.push_str("(empty hash)\n");
    }
    let width = pairs.len().to_string().len();
    let inner = format!("{prefix}{}", " ".repeat(width + 2));
    for (index, (key, value)) in pairs.iter().enumerate() {
        let start = if index == 0 { "" } else { prefix };
        out.push_str(&format!("{start}{:>width$}# ", index + 1));
        write(key, &inner, out);
        out.truncate(out.trim_end_matches('\n').len());
        out.push_str(" => ");
        write(value, &inner, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_goes_both_ways() {
        let args = split(r#"SET "a\x00\n\"b" 'it\'s \n' plain """#).expect("balanced");
        let wanted: [&[u8]; 5] = [b"SET", b"a\0\n\"b", b"it's \\n", b"plain", b""];
        assert_eq!(args, wanted);
        assert_eq!(split(&join(&args)), Some(args));
        assert_eq!(split("\"a"), None);
        assert_eq!(split("\"a\"b"), None);
        assert_eq!(split("  "), Some(vec![]));
    }

    #[test]
    fn shows_replies_as_redis_cli_does() {
        let nested = Value::Array(vec![
            Value::Array(vec![Value::bulk("a"), Value::Int(1)]),
            Value::Null,
            Value::Array(vec![]),
        ]);
        assert_eq!(show(&nested), "1) 1) \"a\"\n   2) (integer) 1\n2) (nil)\n3) (empty array)\n");
        let map = Value::Map(vec![
            (Value::bulk("a"), Value::Double(b"1.5".to_vec())),
            (Value::bulk("b"), Value::Array(vec![Value::Bool(true), Value::bulk("x\ny")])),
        ]);
        assert_eq!(
            show(&map),
            "1# \"a\" => (double) 1.5\n2# \"b\" => 1) (true)\n   2) \"x\\ny\"\n"
        );
    }
}
