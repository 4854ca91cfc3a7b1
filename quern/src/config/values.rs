//! What flags take, as people write it: counts such as `8192`, `8k`, `25.6k`, `8Ki`, `1M`; seconds; shares; JSON.

use serde_json::{Map, Value};

/// Parse a count: digits; or a decimal number with `k`, `M`, `G` or `T` (powers of 1000), the
/// result rounded down; or digits with `Ki`, `Mi`, `Gi` or `Ti` (powers of 1024, no decimals).
///
/// # Errors
/// If it is none of these, or more than 64 bits hold; the text says so to the one who typed it.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a count; write 8192, 8k (8000), 25.6k (25600), 8Ki (8192), 1M or 1Mi");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (unit, decimals) = match suffix {
        "" => (1, false),
        "k" => (1_000, true),
        "M" => (1_000_000, true),
        "G" => (1_000_000_000, true),
        "T" => (1_000_000_000_000, true),
        "Ki" => (1 << 10, false),
        "Mi" => (1 << 20, false),
        "Gi" => (1 << 30, false),
        "Ti" => (1 << 40, false),
        _ => return Err(refuse()),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if decimals && !fraction.is_empty() => (whole, fraction),
        None => (number, ""),
        Some(_) => return Err(refuse()),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(refuse());
    }
    let too_large = || format!("`{text}` is larger than {}", u64::MAX);
    let whole = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(too_large)?;
    // Integer arithmetic, so that 25.6k is 25600 and not 25599: each digit is worth a tenth of the one
    // before it, and what is below one token is dropped.
    let mut worth = unit;
    let mut rest = 0;
    for digit in fraction.bytes() {
        worth /= 10;
        rest += u64::from(digit - b'0') * worth;
    }
    whole.checked_add(rest).ok_or_else(too_large)
}

/// A count of what is held in memory.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let count = parse_count(text)?;
    usize::try_from(count).map_err(|_| format!("`{text}` is larger than {}", usize::MAX))
}

/// The same, of at least 1.
pub(super) fn positive_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        0 => Err("at least 1 is wanted".into()),
        count => Ok(count),
    }
}

/// Seconds, 0 or more.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1e9).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0 to 1000000000 is wanted".into()),
    }
}

/// Seconds, more than 0.
pub(super) fn positive_seconds(text: &str) -> Result<f64, String> {
    seconds(text).and_then(|value| if value > 0.0 { Ok(value) } else { Err("more than 0 seconds are wanted".into()) })
}

/// A share of something that is there.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("a share above 0 and at most 1 is wanted".into()),
    }
}

/// What something is multiplied with.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor >= 0.0 && factor.is_finite() => Ok(factor),
        _ => Err("a number of at least 0 is wanted".into()),
    }
}

/// A JSON object.
pub(super) fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("a JSON object is wanted, such as {\"name\": 1}".into()),
        Err(cause) => Err(format!("not JSON: {cause}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_forms_are_read() {
        for (text, count) in [
            ("0", 0),
            ("8192", 8192),
            ("8k", 8000),
            ("25.6k", 25600),
            ("0.5k", 500),
            ("1M", 1_000_000),
            ("1.5G", 1_500_000_000),
            ("1T", 1_000_000_000_000),
            ("8Ki", 8192),
            ("1Mi", 1 << 20),
            ("2Gi", 2 << 30),
            ("1Ti", 1 << 40),
        ] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "k", "8 k", "8kB", "8ki", "8K", "8m", "8KI", "1.5Ki", "1.5", ".5k", "5.k", "-8", "+8", "8e3", "1_000",
            "٣",
        ] {
            assert!(parse_count(text).is_err(), "{text}");
        }
        assert!(parse_count("18446744073709551616").unwrap_err().contains("larger than"));
        assert!(parse_count("99999999T").unwrap_err().contains("larger than"));
    }

    proptest! {
        #[test]
        fn plain_digits_are_themselves(n: u64) {
            prop_assert_eq!(parse_count(&n.to_string()), Ok(n));
        }

        #[test]
        fn suffixes_multiply(n in 0u64..1_000_000, i in 0usize..4) {
            prop_assert_eq!(parse_count(&format!("{n}{}", ["k", "M", "G", "T"][i])), Ok(n * 1000u64.pow(i as u32 + 1)));
            prop_assert_eq!(parse_count(&format!("{n}{}", ["Ki", "Mi", "Gi", "Ti"][i])), Ok(n << (10 * (i + 1))));
        }

        #[test]
        fn thousandths_of_a_k_are_exact(n in 0u64..1_000_000, thousandths in 0u64..1000) {
            prop_assert_eq!(parse_count(&format!("{n}.{thousandths:03}k")), Ok(n * 1000 + thousandths));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_count(&text);
        }
    }
}
