//! Numbers as C's `printf("%.*g")` prints them, which is how Lua and its libraries do.

/// A number with up to `digits` significant digits, without trailing zeros.
pub fn format_g(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return if value.is_sign_negative() { "-nan".into() } else { "nan".into() };
    }
    if value.is_infinite() {
        return if value < 0.0 { "-inf".into() } else { "inf".into() };
    }
    let digits = digits.max(1);
    // Whole numbers that fit are most of what there is.
    if value.fract() == 0.0 && value.abs() < 1e14 && digits >= 14 && !is_negative_zero(value) {
        return (value as i64).to_string();
    }
    let scientific = format!("{:.*e}", digits - 1, value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let places = digits as i32 - 1 - exponent;
    if exponent < -4 || places < 0 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    trim(&format!("{:.*}", places as usize, value)).to_owned()
}

fn is_negative_zero(value: f64) -> bool {
    value == 0.0 && value.is_sign_negative()
}

/// Without zeros after the point, and without the point where nothing follows.
fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::format_g;

    #[test]
    fn numbers_look_as_printf_prints_them() {
        let cases = [
            (0.1, 14, "0.1"),
            (0.1, 17, "0.10000000000000001"),
            (3.0, 14, "3"),
            (-0.0, 14, "-0"),
            (1e15, 14, "1e+15"),
            (1e15, 17, "1000000000000000"),
            (123456789012345678.0, 17, "1.2345678901234568e+17"),
            (12345678901234567.0, 17, "12345678901234568"),
            (1e-5, 14, "1e-05"),
            (0.0001, 14, "0.0001"),
            (1e300, 14, "1e+300"),
            (99999999999999.9, 14, "1e+14"),
            (2.5, 1, "2"),
            (f64::INFINITY, 14, "inf"),
            (f64::NEG_INFINITY, 14, "-inf"),
        ];
        for (value, digits, wanted) in cases {
            assert_eq!(format_g(value, digits), wanted, "{value} with {digits}");
        }
    }
}
