//! A Redis URL: refused or taken, its password is in nothing that is shown.

use fanfare::config::{REDACTED, RedisUrl, redact_url};
use fanfare::redis_address::RedisAddress;
use url::Url;

const PASSWORD: &str = "hunter2-hunter2";

/// A URL whose password, if the bytes make it one, stands where their first line ends.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (before, after) = text.split_once('\n').unwrap_or((&text, ""));
    let mut url = format!("{before}{PASSWORD}{after}");
    if !url.is_ascii() || url.contains('%') {
        // Of a host with capitals and other letters a dependency (idna_adapter 1.0) asserts in debug builds that it has
        // none of the former, and refuses it for the latter: its finding would be the only one.
        url.make_ascii_lowercase();
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
