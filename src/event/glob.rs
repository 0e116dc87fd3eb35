//! Redis's pattern language, as PSUBSCRIBE reads it, on bytes.
//!
//! `*` any run, `?` any byte, `[abc]`, `[a-z]`, `[^a]` one of (or not one of) a set, `\x` the byte x itself. Odd
//! patterns mean the same here as in Redis: an unclosed set ends with the pattern, `[a-]` is a range up to `]`, a range
//! may run backwards, a last `\` is itself. The Redis source drops a message when [`matches`] finds that another pattern
//! also brings it, so the function is tested against a real server. Patterns of topics have the same language.

use std::ops::Range;

/// True for a text that is a pattern and not just a name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// How many `*` a pattern has.
pub fn stars(pattern: &[u8]) -> usize {
    let (mut stars, mut at) = (0, 0);
    while let Some(byte) = pattern.get(at) {
        stars += usize::from(*byte == b'*');
        at += if *byte == b'*' { 1 } else { step(&pattern[at..], 0).1 };
    }
    stars
}

/// True when Redis sends a message published to `channel` to a subscriber of `pattern`.
pub fn matches(pattern: &[u8], channel: &[u8]) -> bool {
    walk(pattern, channel, |_| {})
}

/// What each `*` of the pattern matches in `channel`, if all of it matches. Each matches as little as it can, the first one
/// first.
pub fn captures(pattern: &[u8], channel: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut captures = Vec::new();
    walk(pattern, channel, |capture| captures.push(capture)).then_some(captures)
}

/// Matches, and reports what each `*` matched as soon as that can't change any more.
fn walk(pattern: &[u8], channel: &[u8], mut report: impl FnMut(Range<usize>)) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where the latest `*` begins to match.
    let mut star_at = 0;
    // Where to resume when the latest `*` must match one more byte. Earlier ones never need to: the latest can match
    // everything that they could.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&byte) = channel.get(read) {
        if pattern.get(at) == Some(&b'*') {
            if let Some((_, swallowed)) = retry {
                report(star_at..swallowed);
            }
            at += 1;
            (star_at, retry) = (read, Some((at, read)));
            continue;
        }
        match step(&pattern[at..], byte) {
            (true, taken) => (at, read) = (at + taken, read + 1),
            (false, _) => {
                let Some((after_star, swallowed)) = retry else { return false };
                (at, read) = (after_star, swallowed + 1);
                retry = Some((at, read));
            }
        }
    }
    if let Some((_, swallowed)) = retry {
        report(star_at..swallowed);
    }
    let rest = &pattern[at..];
    rest.iter().for_each(|_| report(read..read));
    rest.iter().all(|&byte| byte == b'*')
}

/// Whether the front of the pattern, which is no `*`, matches the one `byte`, and how long that front is.
fn step(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [] => (false, 0),
        [b'?', ..] => (true, 1),
        [b'[', b'^', set @ ..] => {
            let (holds, taken) = set_holds(set, byte);
            (!holds, 2 + taken)
        }
        [b'[', set @ ..] => {
            let (holds, taken) = set_holds(set, byte);
            (holds, 1 + taken)
        }
        [b'\\', literal, ..] => (*literal == byte, 2),
        [literal, ..] => (*literal == byte, 1),
    }
}

/// Whether a set contains `byte`, and the set's length including the closing `]`. `set` is all that follows the
/// opening.
fn set_holds(set: &[u8], byte: u8) -> (bool, usize) {
    let (mut holds, mut at) = (false, 0);
    loop {
        let (member, taken) = match &set[at..] {
            [] => return (holds, at),
            [b'\\', literal, ..] => (*literal == byte, 2),
            [b']', ..] => return (holds, at + 1),
            [first, b'-', last, ..] => (is_between(byte, *first, *last), 3),
            [literal, ..] => (*literal == byte, 1),
        };
        holds |= member;
        at += taken;
    }
}

fn is_between(byte: u8, first: u8, last: u8) -> bool {
    // Redis compares C's `char`, which is signed on x86-64: a range across 0x80 runs the other way round there.
    let [byte, first, last] = [byte, first, last].map(|byte| byte as std::ffi::c_char);
    (first.min(last)..=first.max(last)).contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        for (names, expected) in [(matching, true), (others, false)] {
            for name in names {
                assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern:?} and {name:?}");
            }
        }
    }

    #[test]
    fn redis_documented_patterns() {
        check("news.*", &["news.", "news.art", "news.a.b"], &["news", "xnews.a"]);
        check("h?llo", &["hello", "hallo"], &["hllo", "heello"]);
        check("h*llo", &["hllo", "heeeello", "hllollo"], &["hell", "hllox"]);
        check("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]);
        check("h[^e]llo", &["hallo", "h^llo"], &["hello", "hllo"]);
        check("h[a-b]llo", &["hallo", "hbllo"], &["hcllo", "h-llo"]);
        check("*", &["a", "a*b"], &[]);
        check("**a**b**", &["ab", "xaybz"], &["ba"]);
        check("a*b*c", &["abc", "aXbYc", "abbcc"], &["acb", "ab", "abcd"]);
        check("", &[""], &["a"]);
    }

    #[test]
    fn escapes_and_odd_sets() {
        check(r"a\*b", &["a*b"], &["aXb", r"a\*b"]);
        check(r"a\?\[\\", &[r"a?[\"], &["ab[x"]);
        check(r"[\]]", &["]"], &[r"\", "a"]);
        check(r"[\^a]", &["^", "a"], &["b"]);
        check("[z-a]", &["a", "m", "z"], &["A"]);
        check("[a-]x", &["a", "`", "]"], &["ax", "b"]);
        check("[a-", &["a", "-"], &["b"]);
        check("[ab", &["a", "b"], &["c", "[ab"]);
        check("[^", &["a", "^"], &["", "ab"]);
        check("[", &[], &["[", ""]);
        check("[]a", &[], &["a", "]a"]);
        check("[^]a", &["xa"], &["a"]);
        check(r"a\", &[r"a\"], &["a"]);
        check(r"[\", &[r"\"], &["["]);
        assert!(matches(b"[\x80-\xbf]", b"\x90") && !matches(b"[\x80-\xbf]", b"\xc3"));
    }

    #[test]
    fn each_star_has_what_it_matches() {
        let check = |pattern: &str, name: &str, expected: Option<&[&str]>| {
            let captures = captures(pattern.as_bytes(), name.as_bytes());
            let texts = captures.map(|captures| captures.into_iter().map(|range| &name[range]).collect::<Vec<_>>());
            assert_eq!(texts.as_deref(), expected, "{pattern} and {name}");
        };
        check("rails:*", "rails:a:b", Some(&["a:b"]));
        check("rails:*", "rails:", Some(&[""]));
        check("rails:*", "rail", None);
        check("*:*", "a:b:c", Some(&["a", "b:c"]));
        check("*.*.x", "a.b.c.x", Some(&["a", "b.c"]));
        check("a**", "abc", Some(&["", "bc"]));
        check("a**", "a", Some(&["", ""]));
        check("*[*]*", "a*b", Some(&["a", "b"]));
        check("abc", "abc", Some(&[]));
    }

    #[test]
    fn stars_are_counted_but_not_those_that_stand_for_themselves() {
        for (pattern, expected) in [("", 0), ("a", 0), ("*", 1), ("**a*", 3), (r"\**", 1), ("[*]*[^*]", 1), ("[*", 0)] {
            assert_eq!(stars(pattern.as_bytes()), expected, "{pattern}");
        }
        assert!(["a*", "a?", "[a]", r"\a"].into_iter().all(is_pattern) && !is_pattern("a.{b}]-^:"));
    }

    #[test]
    fn stars_cost_no_more_than_their_product() {
        let name = "a".repeat(1000);
        check(&("a*".repeat(500) + "b"), &[], &[&name]);
    }

    proptest! {
        #[test]
        fn without_wildcards_only_equality_matches(name in "[a-z.:]{0,8}", other in "[a-z.:]{0,8}") {
            prop_assert!(matches(name.as_bytes(), name.as_bytes()));
            prop_assert_eq!(matches(name.as_bytes(), other.as_bytes()), name == other);
        }

        #[test]
        fn any_pattern_is_read_without_panic(pattern: Vec<u8>, name: Vec<u8>) {
            matches(&pattern, &name);
        }

        /// The pattern with each `*` replaced by what it matched is the name.
        #[test]
        fn captures_and_the_rest_make_up_the_name(pattern in "[ab*]{0,8}", name in "[ab]{0,8}") {
            let found = captures(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(found.is_some(), matches(pattern.as_bytes(), name.as_bytes()));
            if let Some(found) = found {
                prop_assert_eq!(found.len(), stars(pattern.as_bytes()));
                let mut captured = found.into_iter();
                let filled = pattern.chars().map(|letter| match letter {
                    '*' => name[captured.next().expect("one for each star")].to_owned(),
                    letter => letter.to_string(),
                });
                prop_assert_eq!(filled.collect::<String>(), name);
            }
        }
    }
}
