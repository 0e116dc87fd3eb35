//! Whole numbers in JSON, which knows no integers: 2000, 2000.0 and 2e3 are the same number.

use serde_json::Number;

/// Integers up to this one are exact as floating point numbers.
const EXACT_MAX: f64 = (1u64 << 53) as f64;

/// A number that is whole and not negative, however it is written.
pub(super) fn whole(number: &Number) -> Option<u64> {
    let exact = |number: &f64| number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(number);
    number.as_u64().or_else(|| number.as_f64().filter(exact).map(|number| number as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_however_it_is_written() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(whole(&serde_json::from_str(text).unwrap()), expected, "{text}");
        };
        check("2000", Some(2000));
        check("2000.0", Some(2000));
        check("2e3", Some(2000));
        check("-0.0", Some(0));
        check("18446744073709551615", Some(u64::MAX));
        check("1.5", None);
        check("-1", None);
        check("-1.0", None);
        check("1e300", None);
    }
}
