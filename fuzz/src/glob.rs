//! Redis's patterns: as a table of every way to match has them, which no pattern makes slow.

use fanfare::event::glob::{captures, matches, stars};

/// The first line is the pattern.
pub fn check(bytes: &[u8]) {
    let line_end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (pattern, name) = (&bytes[..line_end], bytes.get(line_end + 1..).unwrap_or_default());
    assert_eq!(matches(pattern, name), matches_naively(&parse(pattern), name));
    let captures = captures(pattern, name);
    assert_eq!(captures.is_some(), matches(pattern, name));
    if let Some(captures) = captures {
        assert_eq!(captures.len(), stars(pattern));
        assert!(
            captures.is_sorted_by(|one, next| one.end <= next.start)
                && captures.iter().all(|one| one.end <= name.len())
        );
    }
}

enum Part {
    Star,
    One(Box<dyn Fn(u8) -> bool>),
}

/// The pattern's parts, each set as the bytes that are in it.
fn parse(mut pattern: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    while let [first, rest @ ..] = pattern {
        pattern = rest;
        parts.push(match (first, rest) {
            (b'*', _) => Part::Star,
            (b'?', _) => Part::One(Box::new(|_| true)),
            (b'[', _) => {
                let negated = rest.first() == Some(&b'^');
                let (set, taken) = parse_set(&rest[usize::from(negated)..]);
                pattern = &rest[usize::from(negated) + taken..];
                Part::One(Box::new(move |byte| set.contains(&byte) != negated))
            }
            (b'\\', [literal, after @ ..]) => {
                let literal = *literal;
                pattern = after;
                Part::One(Box::new(move |byte| byte == literal))
            }
            (literal, _) => {
                let literal = *literal;
                Part::One(Box::new(move |byte| byte == literal))
            }
        });
    }
    parts
}

/// The bytes of a set, and how many of the pattern's it took.
fn parse_set(pattern: &[u8]) -> (Vec<u8>, usize) {
    let (mut set, mut at) = (Vec::new(), 0);
    while at < pattern.len() {
        if pattern[at] == b'\\' && at + 1 < pattern.len() {
            set.push(pattern[at + 1]);
            at += 2;
        } else if pattern[at] == b']' {
            return (set, at + 1);
        } else if pattern.get(at + 1) == Some(&b'-') && at + 2 < pattern.len() {
            // C's char, which is signed on x86-64.
            let mut ends = [pattern[at] as std::ffi::c_char, pattern[at + 2] as std::ffi::c_char];
            ends.sort_unstable();
            set.extend((ends[0]..=ends[1]).map(|byte| byte as u8));
            at += 3;
        } else {
            set.push(pattern[at]);
            at += 1;
        }
    }
    (set, at)
}

/// Whether there is a way: of each beginning of the name, whether the parts so far can stand for it.
fn matches_naively(parts: &[Part], name: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for part in parts {
        match part {
            Part::Star => {
                let first = reached.iter().position(|reached| *reached).unwrap_or(reached.len());
                reached[first..].fill(true);
            }
            Part::One(holds) => {
                for end in (0..name.len()).rev() {
                    reached[end + 1] = reached[end] && holds(name[end]);
                }
                reached[0] = false;
            }
        }
    }
    reached[name.len()]
}
