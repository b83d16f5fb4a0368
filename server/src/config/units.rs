//! Byte counts as Redis writes them: `100`, `1k` = 1,000, `1kb` = 1,024, up to `gb`.

/// Reads a byte count with an optional unit; `None` for anything else or above `i64::MAX`.
///
/// ```
/// use ashlar_server::config::parse_bytes;
/// assert_eq!(parse_bytes(b"2gb"), Some(2 << 30));
/// assert_eq!(parse_bytes(b"2G"), Some(2_000_000_000));
/// assert_eq!(parse_bytes(b"-1"), None);
/// ```
pub fn parse_bytes(text: &[u8]) -> Option<i64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, unit) = text.split_at_checked(digits)?;
    let factor: i64 = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1_000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    let count: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    count.checked_mul(factor)
}

/// The shortest exact spelling of a byte count for a configuration file: `1gb`, `64mb`, `1500`.
pub(super) fn shortest(bytes: i64) -> String {
    for (unit, factor) in [("gb", 1i64 << 30), ("mb", 1 << 20), ("kb", 1 << 10)] {
        if bytes >= factor && bytes % factor == 0 {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// A byte count for people, as INFO shows it: `919.00K`, `11.82M`.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut amount = bytes as f64 / 1024.0;
    for unit in ["K", "M", "G", "T"] {
        if amount < 1024.0 {
            return format!("{amount:.2}{unit}");
        }
        amount /= 1024.0;
    }
    format!("{amount:.2}P")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal_without_and_binary_with_a_b() {
        for (text, bytes) in [
            ("0", 0),
            ("7b", 7),
            ("1k", 1_000),
            ("1KB", 1_024),
            ("3m", 3_000_000),
            ("3Mb", 3 << 20),
            ("1g", 1_000_000_000),
            ("1gb", 1 << 30),
        ] {
            assert_eq!(parse_bytes(text.as_bytes()), Some(bytes), "{text}");
        }
        for text in ["", "kb", "1.5gb", "1tb", "-1", " 1", "99999999999999999999", "9999999999gb"] {
            assert_eq!(parse_bytes(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_shortest_spelling_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1500, 3 << 20, 1 << 30, (1 << 30) + 1024, i64::MAX] {
            assert_eq!(parse_bytes(shortest(bytes).as_bytes()), Some(bytes));
        }
        assert_eq!(shortest(1 << 30), "1gb");
    }

    #[test]
    fn human_amounts_have_two_decimals() {
        assert_eq!(human_bytes(200), "200B");
        assert_eq!(human_bytes(941_056), "919.00K");
        assert_eq!(human_bytes(25_276_502_016), "23.54G");
    }
}
