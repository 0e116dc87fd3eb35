//! A primary that Sentinels name: `redis+sentinel://[user[:password]@]host[:port],…/service[/db]`.
//!
//! Each connection begins with the question which server is the primary, and the Sentinels are asked one after another. A
//! server that does not take the role of a primary is not used: a Sentinel that was cut off from the others may name an
//! old one. A Sentinel that wants a login gets the one for Redis.

use std::io;
use std::time::Duration;

use redis::{Cmd, ConnectionInfo, RedisConnectionInfo, RedisError, RedisResult, Value};
use rustls::RootCertStore;

use super::cluster::address_of;
use super::connection::RedisConnection;
use super::is_login_refused;
use super::replies::ReplyLimits;

/// What such a URL's scheme ends with.
const SCHEME_END: &str = "+sentinel";
/// The port of a Sentinel, unless the URL names another one.
const PORT: u16 = 26379;
/// More Sentinels than this are refused, so that asking them all takes a bounded time.
const SENTINELS_MAX: usize = 9;
/// How long to wait for a connection to a Sentinel, and for its answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Stands for the primary's host in the URL that the redis crate reads.
const UNKNOWN_HOST: &str = "primary.invalid";

/// The Sentinels that name a primary.
#[derive(Clone)]
pub struct Sentinels {
    service: String,
    hosts: Vec<(String, u16)>,
}

fn names_sentinels(url: &str) -> bool {
    scheme_of(url).is_some_and(|scheme| scheme.ends_with(SCHEME_END))
}

/// The same URL in a form that the url crate can read: the list of hosts is one escaped host.
pub fn escape_hosts(url: &str) -> String {
    replace_hosts(url, |hosts| hosts.replace(':', "%3A").replace('[', "%5B").replace(']', "%5D"))
}

/// The reverse of [`escape_hosts`].
pub fn unescape_hosts(url: &str) -> String {
    replace_hosts(url, |hosts| hosts.replace("%3A", ":").replace("%5B", "[").replace("%5D", "]"))
}

fn scheme_of(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme)
}

fn replace_hosts(url: &str, replace: impl FnOnce(&str) -> String) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|_| names_sentinels(url)) else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    format!("{scheme}://{login}{}{path}", replace(hosts))
}

impl Sentinels {
    /// Reads a URL, and returns with its Sentinels the URL of the server, whose host is not known yet; or no Sentinels and
    /// the same URL. No error quotes it.
    pub fn read(url: &str) -> Result<(Option<Sentinels>, String), String> {
        if !names_sentinels(url) {
            return Ok((None, url.to_owned()));
        }
        let url = unescape_hosts(url);
        let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
        let scheme = match scheme.strip_suffix(SCHEME_END) {
            Some(scheme @ ("redis" | "rediss")) => scheme,
            _ => return Err("its scheme is unknown".to_owned()),
        };
        if rest.contains(['?', '#']) {
            return Err("an address with Sentinels has no parameters".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let hosts = hosts.split(',').map(host_and_port).collect::<Option<Vec<_>>>();
        let hosts = hosts.ok_or("each Sentinel must be a host, or a host and a port")?;
        if hosts.len() > SENTINELS_MAX {
            return Err(format!("at most {SENTINELS_MAX} Sentinels may be named"));
        }
        let (service, db) = path.split_once('/').unwrap_or((path, ""));
        // Sentinel's own rule for names.
        if service.is_empty() || !service.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
            return Err("the name of the primary, such as mymaster, must follow the Sentinels behind a /".to_owned());
        }
        let sentinels = Sentinels { service: service.to_owned(), hosts };
        Ok((Some(sentinels), format!("{scheme}://{login}{UNKNOWN_HOST}/{db}")))
    }

    /// What is shown of them.
    pub(super) fn shown(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        format!("{} of the Sentinels {}", self.service, hosts.join(", "))
    }

    /// A connection to the primary: `open` connects to an address, and `role` asks for its role.
    pub(super) fn connect<T>(
        &self,
        info: &ConnectionInfo,
        trusted: Option<&RootCertStore>,
        explain: impl Fn(&RedisError) -> String,
        mut open: impl FnMut(ConnectionInfo) -> RedisResult<T>,
        mut role: impl FnMut(&mut T, &Cmd) -> RedisResult<Value>,
    ) -> RedisResult<T> {
        let mut failures = Vec::new();
        let mut tried = Vec::new();
        for (host, port) in &self.hosts {
            let primary = match self.ask(info, trusted, host, *port) {
                Ok(Some(primary)) => primary,
                Ok(None) => {
                    failures.push(format!("{host}:{port} knows no primary {}", self.service));
                    continue;
                }
                Err(error) => {
                    failures.push(format!("{host}:{port} failed: {}", explain(&error)));
                    continue;
                }
            };
            let shown = format!("{}:{}", primary.0, primary.1);
            if tried.contains(&primary) {
                failures.push(format!("{host}:{port} names {shown}, too"));
                continue;
            }
            let opened = open(info.clone().set_addr(address_of(info, &primary.0, primary.1)));
            let outcome = opened
                .and_then(|mut connection| Ok((is_primary(role(&mut connection, &redis::cmd("ROLE")))?, connection)));
            match outcome {
                Ok((true, connection)) => return Ok(connection),
                Ok((false, _)) => failures.push(format!("{host}:{port} names {shown}, which is no primary")),
                // No other Sentinel knows a better password.
                Err(error) if is_login_refused(&error) => return Err(error),
                Err(error) => {
                    failures.push(format!("{host}:{port} names {shown}, which failed: {}", explain(&error)));
                }
            }
            tried.push(primary);
        }
        Err(io::Error::other(format!("no Sentinel names a primary that answers: {}", failures.join("; "))).into())
    }

    /// Asks one Sentinel; `None`: it does not know the primary.
    fn ask(
        &self,
        info: &ConnectionInfo,
        trusted: Option<&RootCertStore>,
        host: &str,
        port: u16,
    ) -> RedisResult<Option<(String, u16)>> {
        let address = address_of(info, host, port);
        let login = info.redis_settings().clone().set_db(0);
        let ask = |login: &RedisConnectionInfo| {
            let limits = ReplyLimits { payload_bytes_max: 0 };
            let mut sentinel = RedisConnection::open(&address, login, trusted, TIMEOUT, limits)?;
            sentinel.ask(redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service))
        };
        let reply = match ask(&RedisConnectionInfo::default()) {
            Err(error) if is_login_refused(&error) && login.password().is_some() => ask(&login)?,
            answer => answer?,
        };
        if matches!(reply, Value::Nil) {
            return Ok(None);
        }
        let (host, port): (String, u16) = redis::from_redis_value(reply)?;
        Ok(Some((host, port)))
    }
}

/// A host, an IPv6 address in brackets, and a port that may be left out.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    let is_valid = !host.is_empty() && host.chars().all(is_host);
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    is_valid.then(|| (host.to_owned(), port))
}

/// Where an ACL forbids ROLE, what runs on the connection must find out.
fn is_primary(role: RedisResult<Value>) -> RedisResult<bool> {
    match role {
        Ok(Value::Array(parts)) => Ok(matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master")),
        Ok(_) => Ok(false),
        Err(error) if error.code() == Some("NOPERM") => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_sentinels_and_the_primary() {
        let check = |url: &str, shown: &str, server: &str| {
            for url in [url.to_owned(), escape_hosts(url)] {
                let (sentinels, primary) = Sentinels::read(&url).unwrap();
                assert_eq!((&sentinels.unwrap().shown()[..], &primary[..]), (shown, server), "{url}");
            }
            assert_eq!(unescape_hosts(&escape_hosts(url)), url);
        };
        check("redis+sentinel://a/m", "m of the Sentinels a:26379", "redis://primary.invalid/");
        check(
            "rediss+sentinel://u:p%3Aw@a:1,[::1]:2,[::2]/my.master/3",
            "my.master of the Sentinels a:1, ::1:2, ::2:26379",
            "rediss://u:p%3Aw@primary.invalid/3",
        );
    }

    #[test]
    fn a_url_that_names_none_is_refused() {
        let check = |url: &str, words: &str| {
            let error = Sentinels::read(url).map(|_| ()).unwrap_err();
            assert!(error.contains(words) && !error.contains("hunter2"), "{url}: {error}");
        };
        check("unix+sentinel://a/m", "scheme");
        check("redis+sentinel://:hunter2@/m", "host");
        check("redis+sentinel://a,,b/m", "host");
        check("redis+sentinel://a:hunter2/m", "port");
        check("redis+sentinel://a:65536/m", "port");
        check("redis+sentinel://a", "name of the primary");
        check("redis+sentinel://a/my master", "name of the primary");
        check("redis+sentinel://a/m?pass=hunter2", "no parameters");
        let many = |count: usize| format!("redis+sentinel://{}/m", vec!["a"; count].join(","));
        check(&many(SENTINELS_MAX + 1), "at most 9");
        assert!(Sentinels::read(&many(SENTINELS_MAX)).is_ok());
    }
}
