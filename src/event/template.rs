//! Templates: a name that is made from another one and from what the `*` of a pattern match in it. Pure.
//!
//! `{1}` is what the first `*` of the pattern matches, `{2}` what the second one matches, and so on; `{0}` is the whole
//! name. Everything else is literal. What a template makes is bytes that the caller has to check.

use std::str::FromStr;

use super::glob;

/// A name with places to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// What this `*` of the pattern matches, counted from 1; 0 is the whole name.
    Capture(usize),
}

impl Template {
    /// The highest number that stands in it.
    pub fn highest_capture(&self) -> usize {
        let numbers = self.0.iter().map(|part| if let Part::Capture(number) = part { *number } else { 0 });
        numbers.max().unwrap_or(0)
    }

    /// The name that it makes of every other one, if it has no place to fill in.
    pub fn constant(&self) -> Option<&str> {
        match &self.0[..] {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The name that it makes with this text in each of its places.
    pub fn filled_with(&self, text: &str) -> String {
        let parts = self.0.iter().map(|part| if let Part::Literal(literal) = part { literal } else { text });
        parts.collect()
    }

    /// The name that it makes of `name`, which `pattern` matches.
    pub fn fill(&self, pattern: &[u8], name: &[u8]) -> Vec<u8> {
        let captures = match self.highest_capture() {
            0 => Vec::new(),
            _ => glob::captures(pattern, name).unwrap_or_default(),
        };
        let captured = |number: usize| match number.checked_sub(1) {
            None => name,
            Some(index) => captures.get(index).map_or(&[][..], |range| &name[range.clone()]),
        };
        let bytes = self.0.iter().flat_map(|part| match part {
            Part::Literal(text) => text.as_bytes(),
            Part::Capture(number) => captured(*number),
        });
        bytes.copied().collect()
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (number, after) = after.split_once('}').unwrap_or_default();
            let is_number = (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.parse().ok().filter(|_| is_number);
            let number =
                number.ok_or("behind a { stand a number and a }: {1} is what the first * of the pattern matches")?;
            parts.extend((!literal.is_empty()).then(|| Part::Literal(literal.to_owned())));
            parts.push(Part::Capture(number));
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
        Ok(Template(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_with_what_the_stars_match() {
        let check = |template: &str, pattern: &str, name: &str, expected: &str| {
            let filled = template.parse::<Template>().unwrap().fill(pattern.as_bytes(), name.as_bytes());
            assert_eq!(String::from_utf8(filled).unwrap(), expected, "{template} of {pattern} and {name}");
        };
        check("app.{1}", "rails:*", "rails:orders", "app.orders");
        check("{2}.{1}.{2}", "*:*", "a:b:c", "b:c.a.b:c");
        check("{1}|{2}|{3}", "a*b*c*", "aXbYbZc", "X|YbZ|");
        check("{1}|{2}", "**", "ab", "|ab");
        check("{1}|{2}", "*a*", "a", "|");
        check("{1}", "*.[ab]?", "x.y.bz", "x.y");
        check("{1}", r"\**", "*x", "x");
        check("r/{0}", "orders", "orders", "r/orders");
        check("all", "rails:*", "rails:orders", "all");
        check("a}b", "*", "x", "a}b");
    }

    #[test]
    fn what_is_no_number_in_braces_is_refused() {
        for text in ["{", "{}", "{1", "a{b}", "{-1}", "{+1}", "{1}{", "{0001}", "{{1}}"] {
            assert!(text.parse::<Template>().unwrap_err().contains("{1} is"), "{text}");
        }
        let template = |text: &str| text.parse::<Template>().unwrap();
        assert_eq!(["a", "{0}", "{1}.{12}"].map(|text| template(text).highest_capture()), [0, 0, 12]);
        assert_eq!((template("a").constant(), template("a{0}").constant()), (Some("a"), None));
        assert_eq!(template("a{0}b{1}").filled_with("x"), "axbx");
    }
}
