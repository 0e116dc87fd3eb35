//! A Redis URL: refused or taken, its password is in nothing that is shown.

use fanfare::config::{REDACTED, RedisUrl, redact_url};
use fanfare::redis_address::RedisAddress;
use url::{Url, form_urlencoded};

const PASSWORD: &str = "hunter2-hunter2";

/// A URL whose password, if the bytes make it one, stands where their first line ends.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (before, after) = text.split_once('\n').unwrap_or((&text, ""));
    let url = format!("{before}{PASSWORD}{after}");
    // Of a host with capitals and other letters, escaped or not, a dependency (idna_adapter 1.0) asserts in debug builds
    // that it has none of the former, and refuses it for the latter: its finding would be the only one.
    let decoded: String =
        form_urlencoded::parse(url.as_bytes()).map(|(name, value)| format!("{name}{value}")).collect();
    if !decoded.is_ascii() && decoded.contains(|c: char| c.is_ascii_uppercase()) {
        return;
    }

    let address = RedisAddress::new(&url, None);
    let parsed = url.parse::<RedisUrl>();
    let redacted = redact_url(&url);
    // In a host or a path the same word is no secret.
    if !Url::parse(&url).is_ok_and(|url| is_password_of(&url)) {
        return;
    }
    let mut shown = vec![redacted];
    shown.push(address.map_or_else(|error| format!("{error} {error:?}"), |address| format!("{address} {address:?}")));
    if let Ok(url) = parsed {
        shown.push(format!("{url} {url:?}"));
        let again = url.to_string().parse::<RedisUrl>();
        assert!(again.is_ok_and(|again| again.is_redacted()), "{url} is not what --print-config may show");
    }
    for text in shown {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

fn is_password_of(url: &Url) -> bool {
    let elsewhere = [
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path(),
        url.username(),
        url.fragment().unwrap_or_default(),
    ];
    let in_query = url.query_pairs().any(|(key, value)| key == "pass" && value.contains(PASSWORD));
    let others =
        url.query_pairs().any(|(key, value)| key.contains(PASSWORD) || (key != "pass" && value.contains(PASSWORD)));
    let is_password = url.password().is_some_and(|password| password.contains(PASSWORD) && password != REDACTED);
    (is_password || in_query) && !others && elsewhere.iter().all(|part| !part.contains(PASSWORD))
}
