//! The request target: a path as it was sent, and a query, decoded once. Independent of routes.
//!
//! The path stays encoded because proxies compare it encoded: if `/%6detrics` were `/metrics` here, a proxy that denies
//! the latter would let the former pass.

use super::RequestError;

/// What a request asks for. `*` (of `OPTIONS *`) is the path `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The path as it was sent; its escapes are checked, and [`decode_path`] decodes a part of it.
    pub path: String,
    /// The query's pairs in the order given, percent-decoded, `+` as a space. A name without `=` has an empty value.
    pub query: Vec<(String, String)>,
}

impl Target {
    /// Decodes an origin-form target (`/path?query`). Refuses bad escapes, NUL, a fragment and text that is not UTF-8.
    pub fn parse(target: &str) -> Result<Target, RequestError> {
        if !target.starts_with(['/', '?']) {
            return Err(RequestError::Malformed("the request target is neither a path nor an http:// URL"));
        }
        // RFC 9112, 3.2: a fragment is never sent. A client that sends one has built the target by hand, wrongly.
        if target.contains('#') {
            return Err(RequestError::Malformed("the request target holds a fragment (#)"));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(parse_pair).collect::<Result<_, _>>()?;
        // RFC 9112, 3.2.2: `http://host?query` names the root.
        let path = if path.is_empty() { "/" } else { path };
        if path.contains(['%', '\0']) {
            decode(path, false)?;
        }
        Ok(Target { path: path.to_owned(), query })
    }

    /// The first value of `name` in the query.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_all(name).next()
    }

    /// Every value of `name` in the query, in order.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A part of a target's path, percent-decoded; none if the cut splits an escape or a character.
pub fn decode_path(part: &str) -> Option<String> {
    decode(part, false).ok()
}

fn parse_pair(pair: &str) -> Result<(String, String), RequestError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok((decode(name, true)?, decode(value, true)?))
}

fn decode(text: &str, plus_is_space: bool) -> Result<String, RequestError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => match (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => {
                    return Err(RequestError::Malformed("a % in the request target is not followed by two hex digits"));
                }
            },
            b'+' if plus_is_space => b' ',
            _ => byte,
        });
    }
    // NUL is legal UTF-8, but ends strings in too many programs behind the server.
    if bytes.contains(&0) {
        return Err(RequestError::Malformed("the request target holds a NUL"));
    }
    String::from_utf8(bytes).map_err(|_| RequestError::Malformed("the request target does not decode to UTF-8"))
}

/// The value of one hex digit of either case.
pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// An absolute-form target taken apart (RFC 9112, 3.2.2): the authority and the rest, which may be empty.
pub(super) fn split_absolute(target: &str) -> Option<(&str, &str)> {
    const SCHEME: &str = "http://";
    let scheme = target.get(..SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let rest = &target[SCHEME.len()..];
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    Some((authority, if rest.is_empty() { "/" } else { rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: Option<(&str, &[(&str, &str)])>) {
        let decoded = Target::parse(target).ok();
        let pairs = |q: &[(&str, &str)]| q.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let expected = expected.map(|(path, query)| Target { path: path.into(), query: pairs(query) });
        assert_eq!(decoded, expected, "{target:?}");
    }

    #[test]
    fn the_query_is_decoded_and_the_path_stays_as_it_was_sent() {
        check("/", Some(("/", &[])));
        check("/events?topic=a&topic=b", Some(("/events", &[("topic", "a"), ("topic", "b")])));
        check("/topics/caf%C3%A9+1%2f2", Some(("/topics/caf%C3%A9+1%2f2", &[])));
        check("/e?a=1+2%2B3&%62=%26%3d", Some(("/e", &[("a", "1 2+3"), ("b", "&=")])));
        check("/e?flag&empty=&=value&x==", Some(("/e", &[("flag", ""), ("empty", ""), ("", "value"), ("x", "=")])));
        check("/e?&&a=1&", Some(("/e", &[("a", "1")])));
        check("/e?a=/?x", Some(("/e", &[("a", "/?x")])));
        check("?a=1", Some(("/", &[("a", "1")])));
        assert_eq!(decode_path("caf%C3%A9+1%2f2").as_deref(), Some("café+1/2"));
        assert_eq!(decode_path("%C3"), None);
    }

    #[test]
    fn what_does_not_decode_is_refused() {
        for bad in ["", "events", "*", "host:80", "/%", "/%4", "/%zz", "/%+1", "/a%00b", "/?a=%00", "/%ff", "/%C3"] {
            check(bad, None);
        }
        for bad in ["/?a=%", "/?%=1", "/?a=%ED%A0%80", "/a#b", "/?a=b#c"] {
            check(bad, None);
        }
    }

    #[test]
    fn the_query_is_looked_up_by_name() {
        let target = Target::parse("/e?topic=a&x=1&topic=b").unwrap();
        assert_eq!(target.get("topic"), Some("a"));
        assert_eq!(target.get("none"), None);
        assert_eq!(target.get_all("topic").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn absolute_form_is_taken_apart() {
        let split = |t| split_absolute(t).map(|(a, r)| (a, r.to_string()));
        assert_eq!(split("http://h:80/p?q"), Some(("h:80", "/p?q".into())));
        assert_eq!(split("HTTP://h"), Some(("h", "/".into())));
        assert_eq!(split("http://h?q"), Some(("h", "?q".into())));
        assert_eq!(split("https://h/"), None);
        assert_eq!(split("h:80"), None);
        assert_eq!(split("http:/é"), None);
    }
}
