//! Secrets: tokens and passwords, read from files or the environment, never from a flag and never shown.
//!
//! `Debug` and `Display` of everything here are safe to log; only `expose` returns the text. The `auth` module compares
//! tokens in constant time.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use redis::IntoConnectionInfo;
use url::Url;

use crate::redis_address::sentinel::Sentinels;
use crate::redis_address::{sentinel, url_problem};

/// What stands for a secret wherever one would be printed.
pub const REDACTED: &str = "***";

/// Largest secrets file that is read: a wrong path to a large file is refused, not loaded.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A token or password. Printed as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes a bearer token: visible ASCII, so that it survives an HTTP header (RFC 6750 section 2.1).
    pub fn token(text: &str) -> Result<Secret, SecretError> {
        match text {
            "" => Err(SecretError::Empty),
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => Err(SecretError::Character),
            _ => Ok(Secret(text.into())),
        }
    }

    /// Takes a password: any text that is not empty.
    pub fn password(text: &str) -> Result<Secret, SecretError> {
        if text.is_empty() { Err(SecretError::Empty) } else { Ok(Secret(text.into())) }
    }

    /// The secret itself, for a comparison or a connection; never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Why a secret could not be read. Contains nothing of what was read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be opened or read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Larger than any file of secrets.
    #[error("is larger than {FILE_BYTES_MAX} bytes, which no file of secrets is")]
    TooLarge,
    /// No line with a secret.
    #[error("holds no secret: write one per line")]
    Empty,
    /// A character that no header can carry.
    #[error("holds a token with a character other than visible ASCII")]
    Character,
}

/// The secrets of one file: one per line; `#` starts a comment line. Several tokens allow a rotation.
#[derive(Debug)]
pub struct SecretFile {
    lines: Vec<String>,
    /// True when every user of this host may read it.
    pub is_open_to_others: bool,
}

impl SecretFile {
    /// Reads a file of secrets.
    pub fn read(path: &Path) -> Result<SecretFile, SecretError> {
        let (text, is_open_to_others) = read_bounded(path)?;
        let is_secret = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let lines: Vec<String> = text.lines().map(str::trim).filter(is_secret).map(str::to_owned).collect();
        if lines.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(SecretFile { lines, is_open_to_others })
    }

    /// Every line as a bearer token.
    pub fn tokens(&self) -> Result<Vec<Secret>, SecretError> {
        self.lines.iter().map(|line| Secret::token(line)).collect()
    }

    /// The first line as a bearer token.
    pub fn token(&self) -> Result<Secret, SecretError> {
        Secret::token(self.first_line())
    }

    /// The first line as a password.
    pub fn password(&self) -> Result<Secret, SecretError> {
        Secret::password(self.first_line())
    }

    fn first_line(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }
}

/// The text of a file that may hold secrets, and whether every user of this host may read it.
pub fn read_bounded(path: &Path) -> Result<(String, bool), SecretError> {
    let mut file = File::open(path)?;
    let is_open_to_others = file.metadata()?.permissions().mode() & 0o004 != 0;
    let mut text = String::new();
    // A pipe or a device has no length to check first, so the bound is on what is read.
    let read_bytes = Read::by_ref(&mut file).take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read_bytes as u64 > FILE_BYTES_MAX {
        return Err(SecretError::TooLarge);
    }
    Ok((text, is_open_to_others))
}

/// Where Redis is: `redis://`, `rediss://`, `unix://`, or Sentinels that know. Printed without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(Url);

impl RedisUrl {
    /// The whole URL, its password included, as the redis crate takes it.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// True when the URL was copied from a redacted one: its password is kept elsewhere.
    pub fn is_redacted(&self) -> bool {
        self.0.password() == Some(REDACTED)
            || self.0.query_pairs().any(|(key, value)| key == "pass" && value == REDACTED)
    }

    /// The same place with another password.
    #[must_use]
    pub fn with_password(&self, password: &Secret) -> RedisUrl {
        let mut url = self.0.clone();
        // `set_password` takes a % for the beginning of an escape, and does not escape it.
        let escaped = password.expose().replace('%', "%25");
        if url.set_password(Some(&escaped)).is_err() {
            // A unix socket's URL has no host, so only the query can hold a password.
            let others: Vec<(String, String)> =
                self.0.query_pairs().filter(|(key, _)| key != "pass").map(|(k, v)| (k.into(), v.into())).collect();
            url.query_pairs_mut().clear().extend_pairs(others).append_pair("pass", password.expose());
        }
        RedisUrl(url)
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<RedisUrl, String> {
        const ADVICE: &str = "allowed is redis://[user[:password]@]host[:port][/db], rediss:// likewise, \
            unix:///path?db=0, or redis+sentinel://[user[:password]@]host[:port],host[:port]/service[/db]";
        let text = sentinel::escape_hosts(text);
        let (_, server) = Sentinels::read(&text).map_err(|problem| format!("{problem}; {ADVICE}"))?;
        let server = redis::parse_redis_url(&server).ok_or(ADVICE)?;
        server.into_connection_info().map_err(|error| format!("{}; {ADVICE}", url_problem(&error)))?;
        Ok(RedisUrl(Url::parse(&text).map_err(|_| ADVICE)?))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Redacted by parts, not as text: parsed again, the shown URL must name the same place.
        let mut url = self.0.clone();
        if url.password().is_some() && url.set_password(Some(REDACTED)).is_err() {
            return f.write_str(&redact_url(url.as_str()));
        }
        let (place, query) = url.as_str().split_at(url.as_str().find('?').unwrap_or(url.as_str().len()));
        write!(f, "{}{}", sentinel::unescape_hosts(place), redact_parameter(query))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where PostgreSQL is: `postgres://` or `postgresql://`. Printed without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// The whole URL, its password included, as the postgres crate takes it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True when the URL was copied from a redacted one: its password is kept elsewhere.
    pub fn is_redacted(&self) -> bool {
        self.0.contains(&format!(":{REDACTED}@")) || self.0.contains(&format!("password={REDACTED}"))
    }
}

impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<PostgresUrl, String> {
        const ADVICE: &str = "allowed is postgres://[user[:password]@]host[:port][,host[:port]]/database[?sslmode=…]";
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        if !["postgres://", "postgresql://"].iter().any(|scheme| place.starts_with(scheme)) {
            return Err(ADVICE.to_owned());
        }
        // What other clients call prefer and require encrypts without verifying with whom.
        let modes = query.split('&').filter_map(|pair| pair.strip_prefix("sslmode="));
        if modes.into_iter().any(|mode| !["disable", "require", "verify-full"].contains(&mode)) {
            return Err("sslmode is disable, or require, which verifies the certificate as verify-full does".to_owned());
        }
        Ok(PostgresUrl(text.to_owned()))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_url(&self.0))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL's text without its password and its token. Works also on text that is not a URL, since errors show mistyped
/// URLs: it redacts anything that may be a password. Every URL but a [`RedisUrl`] is shown through this.
pub fn redact_url(text: &str) -> String {
    // URL parsers drop these characters, so they must not hide a password from the search below.
    let text = text.replace(['\t', '\n', '\r'], "");
    let (address, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    // In text that is not a URL, an `@` after a `?` may belong to a password before the host, or to one in a parameter.
    if query.contains('@') && Url::parse(&text).is_err() {
        return format!("{}{REDACTED}", scheme_of(address));
    }
    redact_parameter(&(redact_user_info(address) + query))
}

/// The scheme and `://` that the text begins with; a `://` further on may follow a password.
fn scheme_of(text: &str) -> &str {
    let is_of_scheme = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    match text.split_once("://") {
        Some((scheme, _)) if scheme.chars().all(is_of_scheme) => &text[..scheme.len() + 3],
        _ => "",
    }
}

fn redact_user_info(text: &str) -> String {
    // The last `@`: an unescaped `@` in a password must not leave half of it visible.
    let Some((user_info, after)) = text.rsplit_once('@') else { return text.to_owned() };
    let (scheme, user_info) = user_info.split_at(scheme_of(user_info).len());
    match user_info.split_once(':') {
        Some((user, _)) => format!("{scheme}{user}:{REDACTED}@{after}"),
        None => text.to_owned(),
    }
}

fn redact_parameter(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        redacted.extend([before, "="]);
        rest = after;
        // The name may be percent-encoded.
        let name = before.rsplit(['?', '&']).next().unwrap_or_default();
        let is_secret = |name: &str| name.ends_with("pass") || name == "password" || name == "access_token";
        if url::form_urlencoded::parse(name.as_bytes()).any(|(name, _)| is_secret(&name)) {
            redacted.push_str(REDACTED);
            rest = after.find(['&', '#']).map_or("", |end| &after[end..]);
        }
    }
    redacted + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_redacted_url_holds_no_password() {
        let check = |text: &str, expected: &str| assert_eq!(redact_url(text), expected, "{text:?}");
        check("redis://host", "redis://host");
        check("redis://user@host:6379/1", "redis://user@host:6379/1");
        check("redis://:pw@host", "redis://:***@host");
        check("rediss://user:pw@host/0", "rediss://user:***@host/0");
        check("redis://user:p@w:d/x@host", "redis://user:***@host");
        check("user:pw@host", "user:***@host");
        check("unix:///run/r.sock?db=1&pass=pw&user=u", "unix:///run/r.sock?db=1&pass=***&user=u");
        check("unix:///run/r.sock?pass=pw", "unix:///run/r.sock?pass=***");
        check("postgresql:///d?host=/run&password=pw&user=u", "postgresql:///d?host=/run&password=***&user=u");
        check("postgres://u:pw@a:1,b/d?sslmode=require", "postgres://u:***@a:1,b/d?sslmode=require");
        check("unix:///run/r.sock?pass=p@w", "unix:///run/r.sock?pass=***");
        check("unix:///r?pass=pw&x=://u:p@h", "unix:///r?pass=***&x=://u:p@h");
        check("unix:/run/r?pass=a@b", "unix:/run/r?pass=***");
        check("unix:user:pw@host", "unix:***@host");
        check("unix://user:1/pw@host", "unix://user:***@host");
        check("unix://user:pw@host", "unix://user:***@host");
        check("redis://user:p?w@host", "redis://***");
        check("ws::pw@host:/x://y@z", "ws:***@z");
        check("user:pw@x://?@host", "user:***@x://?@host");
        check("unix:///r?p%61ss=pw&p\tass=pw", "unix:///r?p%61ss=***&pass=***");
        check("http://user:pw@host/events?topic=a", "http://user:***@host/events?topic=a");
        check("https://h/e?access_token=a.b.c&topic=t", "https://h/e?access_token=***&topic=t");
        check("/events?topic=t&access%5ftoken=a.b.c#x", "/events?topic=t&access%5ftoken=***#x");
        check("", "");
    }

    #[test]
    fn redis_urls_are_checked_when_they_are_read() {
        let check = |text: &str, is_good: bool| {
            let read = text.parse::<RedisUrl>();
            assert_eq!(read.is_ok(), is_good, "{text:?}: {read:?}");
            assert!(!format!("{read:?}").contains("hunter2"), "{text:?} shows its password");
        };
        check("redis://localhost", true);
        check("rediss://user:hunter2@example.com:6380/2", true);
        check("unix:///run/redis.sock?pass=hunter2", true);
        check("rediss+sentinel://user:hunter2@a:1,b/main/2", true);
        check("redis+sentinel://user:hunter2@a:1,b/main/x", false);
        check("redis+sentinel://user:hunter2@a:1,b:hunter2/main", false);
        check("redis://localhost/db", false);
        check("http://user:hunter2@localhost", false);
        check("localhost:6379", false);
        check("redis://", false);
        check("", false);
    }

    #[test]
    fn what_is_shown_of_a_redis_url_is_one_of_the_same_place() {
        let check = |text: &str, expected: &str| {
            let shown = text.parse::<RedisUrl>().unwrap().to_string();
            assert_eq!(shown, expected);
            assert!(shown.parse::<RedisUrl>().unwrap().is_redacted());
        };
        check("redis://u:p%40w@host:6380/1", "redis://u:***@host:6380/1");
        check("redis://u:pw@host#a@b", "redis://u:***@host#a@b");
        check("redis://:pw@host/1", "redis://:***@host/1");
        check("redis+sentinel://u:p%3Aw@a:1,[::1]:2/m/1", "redis+sentinel://u:***@a:1,[::1]:2/m/1");
        check("unix:/run:6379/r@0?pass=pw&db=1", "unix:/run:6379/r@0?pass=***&db=1");
        check("unix:/a&pass=b?pass=pw", "unix:/a&pass=b?pass=***");
        check("unix:///run/a@b:c@d?user=u&pass=p@w", "unix:///run/a@b:c@d?user=u&pass=***");
    }

    #[test]
    fn a_password_from_elsewhere_replaces_the_urls_own() {
        let check = |text: &str, password: &str, expected: &str| {
            let url: RedisUrl = text.parse().unwrap();
            let url = url.with_password(&Secret::password(password).unwrap());
            assert_eq!(url.expose(), expected);
            let (_, server) = Sentinels::read(url.expose()).unwrap();
            let info = server.into_connection_info().unwrap();
            assert_eq!(info.redis_settings().password(), Some(password), "{expected}");
        };
        check("redis://host/1", "a b@c", "redis://:a%20b%40c@host/1");
        check("redis://user:***@host", "a b@c", "redis://user:a%20b%40c@host");
        check("redis+sentinel://a:1,b/m", "p%4:ss", "redis+sentinel://:p%254%3Ass@a%3A1,b/m");
        check("redis://host", "p%41ss", "redis://:p%2541ss@host");
        check("redis://host", "x%ff", "redis://:x%25ff@host");
        check("unix:///run/r.sock?db=1&pass=***", "a b@c", "unix:///run/r.sock?db=1&pass=a+b%40c");
        check("unix:///run/r.sock", "p%41+s", "unix:///run/r.sock?pass=p%2541%2Bs");
        assert!("redis://user:***@host".parse::<RedisUrl>().unwrap().is_redacted());
        assert!(!"redis://user@host".parse::<RedisUrl>().unwrap().is_redacted());
    }

    #[test]
    fn a_file_holds_one_secret_a_line() {
        let check = |text: &str, expected: Result<&[&str], &str>| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let read = SecretFile::read(file.path()).and_then(|file| file.tokens());
            match (read, expected) {
                (Ok(tokens), Ok(expected)) => {
                    assert_eq!(tokens.iter().map(Secret::expose).collect::<Vec<_>>(), expected, "{text:?}");
                }
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{text:?}: {error}"),
                (read, _) => panic!("{text:?}: {read:?}"),
            }
        };
        check("abc\n", Ok(&["abc"]));
        check("# old\nabc\r\n\n  def  \n#ghi", Ok(&["abc", "def"]));
        check("", Err("no secret"));
        check("# nothing\n", Err("no secret"));
        check("a b", Err("visible ASCII"));
        check(&"x".repeat(70_000), Err("larger than"));
    }

    #[test]
    fn a_file_that_others_may_read_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let check = |mode: u32, expected: bool| {
            std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(SecretFile::read(file.path()).unwrap().is_open_to_others, expected, "{mode:o}");
        };
        check(0o600, false);
        check(0o640, false);
        check(0o644, true);
    }
}
