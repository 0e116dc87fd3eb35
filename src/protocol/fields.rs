//! The grammar inside single header fields (RFC 9110, 5.6 and RFC 9112, 6). Pure helpers of `head`.

use super::RequestError;

/// Whether an `Accept` field names `media_type` itself with a weight above zero. A wildcard does not count: every plain
/// client sends `*/*`, so it does not identify the client.
pub(super) fn accepts(value: &str, media_type: &str) -> bool {
    split_quoted(value, b',').any(|range| {
        let mut parts = split_quoted(range, b';').map(trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media_type));
        named && !parts.any(is_zero_weight)
    })
}

/// Whether an `Accept-Encoding` field allows gzip, and does not prefer an answer without a coding (RFC 9110, 12.5.3).
pub(super) fn prefers_gzip(value: &str) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for coding in value.split(',') {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let name = trim(name);
        let place = if name == "*" {
            &mut any
        // The same coding (RFC 9110, 8.4.1.3).
        } else if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            &mut gzip
        } else if name.eq_ignore_ascii_case("identity") {
            &mut identity
        } else {
            continue;
        };
        *place = Some(weight(parameters));
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// A weight in thousandths: 1000 without one, and 0 for what is none, which refuses (RFC 9110, 12.4.2).
fn weight(parameters: &str) -> u16 {
    let Some((name, text)) = trim(parameters).split_once('=') else {
        return if trim(parameters).is_empty() { 1000 } else { 0 };
    };
    let (whole, decimals) = trim(text).split_once('.').unwrap_or((trim(text), ""));
    let is_weight = trim(name).eq_ignore_ascii_case("q")
        && decimals.len() <= 3
        && decimals.bytes().all(|digit| digit.is_ascii_digit());
    let thousandths = || format!("{decimals:0<3}").parse().unwrap_or(0);
    match whole {
        "0" if is_weight => thousandths(),
        "1" if is_weight && thousandths() == 0 => 1000,
        _ => 0,
    }
}

/// Whether a comma-separated field such as `Connection` holds `token`.
pub(super) fn has_token(value: &str, token: &str) -> bool {
    value.split(',').any(|part| trim(part).eq_ignore_ascii_case(token))
}

/// A `Content-Length`: only digits, so neither a sign nor a list (RFC 9112, 6.3).
pub(super) fn content_length(value: &[u8]) -> Result<u64, RequestError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(RequestError::Malformed("Content-Length is not a number"));
    }
    let digits = value.iter().map(|digit| u64::from(digit - b'0'));
    digits
        .into_iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(digit))
        .ok_or(RequestError::BodyTooLarge)
}

/// A `Transfer-Encoding` over all its lines: valid only when it is exactly `chunked` (RFC 9112, 6.1).
pub(super) fn transfer_encoding(value: &str) -> Result<(), RequestError> {
    let is_chunked = |coding: &str| trim(coding).eq_ignore_ascii_case("chunked");
    if is_chunked(value) {
        return Ok(());
    }
    let before_last = value.rsplit_once(',').map_or("", |(before, _)| before);
    if before_last.split(',').any(is_chunked) {
        return Err(RequestError::Malformed("chunked is not the last transfer coding, or appears twice"));
    }
    // Empty elements, parameters and quotes have each been used to hide a coding from one of two parsers.
    let is_token = |coding: &str| !trim(coding).is_empty() && trim(coding).bytes().all(is_token_byte);
    if !value.split(',').all(is_token) {
        return Err(RequestError::Malformed("Transfer-Encoding is not a list of codings"));
    }
    Err(RequestError::UnsupportedTransferCoding)
}

/// Whether `host` could stand in a `Host` field: a name or address with an optional port, or nothing (RFC 9112, 3.2).
pub(super) fn is_host(host: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&b);
    host.bytes().all(allowed)
}

/// A byte of a token (RFC 9110, 5.6.2), of which methods, header names and codings are made.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Removes optional whitespace at both ends: spaces and tabs, no other Unicode whitespace.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_zero_weight(parameter: &str) -> bool {
    let Some((name, weight)) = parameter.split_once('=') else { return false };
    let weight = trim(weight);
    trim(name).eq_ignore_ascii_case("q") && weight.starts_with('0') && weight.bytes().all(|b| b"0.".contains(&b))
}

/// The pieces between separators that are not inside a quoted string.
pub(super) fn split_quoted(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let piece = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = piece.bytes().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => return byte == separator && !quoted,
            }
            false
        });
        rest = end.map(|end| &piece[end + 1..]);
        Some(end.map_or(piece, |end| &piece[..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_means_the_media_type_by_name() {
        let check = |value: &str, expected: bool| {
            assert_eq!(accepts(value, "text/event-stream"), expected, "{value:?}");
        };
        check("text/event-stream", true);
        check("Text/Event-Stream", true);
        check("text/html, text/event-stream;q=0.1", true);
        check("text/event-stream ; charset=utf-8 ; Q=1.000", true);
        check("text/event-stream,*/*;q=0", true);
        check("text/event-stream;q=", true);
        check("*/*", false);
        check("text/*", false);
        check("", false);
        check("text/event-stream;q=0", false);
        check("text/event-stream; q=0.000", false);
        check("text/event-stream; Q = 0", false);
        check("text/event-stream2", false);
        check("application/json;x=\"a,text/event-stream,b\"", false);
        check("application/json;x=\"\\\",text/event-stream,\"", false);
        check("text/html;q=\"unclosed, text/event-stream", false);
    }

    #[test]
    fn gzip_is_sent_to_clients_that_allow_it_and_prefer_it_to_no_coding() {
        let check = |value: &str, expected: bool| assert_eq!(prefers_gzip(value), expected, "{value:?}");
        for gzip in
            ["gzip", "GZip", "x-gzip", "br, gzip", "gzip;q=0.001", "gzip ; Q = 1.000", "gzip, deflate, br, zstd"]
        {
            check(gzip, true);
        }
        for gzip in ["*", "br;q=1, *;q=0.1", "gzip, identity", "identity;q=0.5, gzip;q=0.5", "identity;q=0, *"] {
            check(gzip, true);
        }
        for plain in ["", "br", "gzip;q=0", "gzip;q=0.000", "*;q=0", "*, gzip;q=0", "identity", "identity;q=0"] {
            check(plain, false);
        }
        for plain in
            ["identity, gzip;q=0.9", "gzip;q=2", "gzip;q=1.001", "gzip;q=-1", "gzip;q=", "gzip;level=9", "gzip;q"]
        {
            check(plain, false);
        }
        check("gzip2", false);
        check("not-gzip", false);
    }

    #[test]
    fn content_length_is_digits() {
        let check = |value: &str, expected: Result<u64, u16>| {
            assert_eq!(content_length(value.as_bytes()).map_err(RequestError::status), expected, "{value:?}");
        };
        check("0", Ok(0));
        check("0012", Ok(12));
        check("18446744073709551615", Ok(u64::MAX));
        check("18446744073709551616", Err(413));
        for bad in ["", "+5", "-5", "5,5", "5 5", "0x5", "5.0", "٥"] {
            check(bad, Err(400));
        }
    }

    #[test]
    fn transfer_encoding_is_exactly_chunked() {
        let check = |value: &str, expected: Result<(), u16>| {
            assert_eq!(transfer_encoding(value).map_err(RequestError::status), expected, "{value:?}");
        };
        check("chunked", Ok(()));
        check(" \tCHUNKED ", Ok(()));
        for unknown in ["gzip", "identity", "gzip, chunked", "xchunked", "chunked-x", "a,b , chunked"] {
            check(unknown, Err(501));
        }
        for bad in
            ["chunked, gzip", "chunked, chunked", "chunked,", ",chunked", "", "chunked;q=1", "\"chunked\"", "a b"]
        {
            check(bad, Err(400));
        }
    }

    #[test]
    fn tokens_are_found_in_lists() {
        assert!(has_token("Upgrade , CLOSE", "close"));
        assert!(!has_token("closed", "close"));
        assert!(!has_token("", "close"));
    }
}
