//! The node of a Redis Cluster that has a key: another node answers a command for it with `MOVED SLOT HOST:PORT`.
//!
//! Only a connection's beginning follows the redirect. If the key moves later, the command fails, and the next connection
//! finds the new node.

use redis::{Client, Cmd, Connection, ConnectionAddr, ConnectionInfo, RedisError, RedisResult, Value};
use std::time::Duration;

use super::RedisAddress;
use super::connection::RedisConnection;
use super::replies::ReplyLimits;

impl RedisAddress {
    /// As [`RedisAddress::connect`], to the node that has `key`.
    pub fn connect_for(
        &self,
        key: &str,
        connect_timeout: Duration,
        reply_timeout: Duration,
    ) -> RedisResult<Connection> {
        let open = |address: &RedisAddress| address.connect(connect_timeout, reply_timeout);
        self.reach_key(key, open, |connection, command| command.query(connection))
    }

    /// As [`RedisAddress::open`], to the node that has `key`.
    pub fn open_for(
        &self,
        key: &str,
        connect_timeout: Duration,
        reply_timeout: Duration,
        limits: ReplyLimits,
    ) -> RedisResult<RedisConnection> {
        let open = |address: &RedisAddress| address.open(connect_timeout, reply_timeout, limits);
        self.reach_key(key, open, RedisConnection::ask)
    }

    fn reach_key<T>(
        &self,
        key: &str,
        open: impl Fn(&RedisAddress) -> RedisResult<T>,
        ask: impl Fn(&mut T, &Cmd) -> RedisResult<Value>,
    ) -> RedisResult<T> {
        let mut connection = open(self)?;
        match ask(&mut connection, redis::cmd("EXISTS").arg(key)) {
            // Whatever else is wrong, the commands to come will show it.
            Err(error) if error.redirect_node().is_some() => open(&self.redirected(&error)?),
            Err(error) if error.is_io_error() => Err(error),
            _ => Ok(connection),
        }
    }

    /// The node that a redirect names, with the same login and the same TLS.
    fn redirected(&self, error: &RedisError) -> RedisResult<RedisAddress> {
        let info = self.client.get_connection_info();
        let (node, _) = error.redirect_node().unwrap_or_default();
        let (host, port) = node.rsplit_once(':').unwrap_or((node, ""));
        let port = port.parse().map_err(|_| error.clone())?;
        // An empty host is the one that was asked.
        let addr = address_of(info, if host.is_empty() { host_of(info) } else { host }, port);
        let client = Client::open(info.clone().set_addr(addr))?;
        Ok(RedisAddress { client, sentinels: None, shown: node.to_owned(), ..self.clone() })
    }
}

fn host_of(info: &ConnectionInfo) -> &str {
    match info.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "localhost",
    }
}

/// Another host with the same TLS.
pub(super) fn address_of(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionAddr {
    match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_names_a_node_with_the_same_login() {
        let check = |url: &str, reply: &str, expected: Option<&str>| {
            let address = RedisAddress::new(url, None).unwrap();
            let error = redis::make_extension_error("x".into(), None);
            let moved = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes());
            let moved = moved.and_then(Value::extract_error).err().unwrap_or(error);
            let node = address.redirected(&moved).ok();
            let shown = node.as_ref().map(|node| node.client.get_connection_info().addr().to_string());
            assert_eq!(shown.as_deref(), expected, "{reply}");
            let login = |address: &RedisAddress| address.client.get_connection_info().redis_settings().clone();
            assert!(node.is_none_or(|node| login(&node).password() == login(&address).password()));
        };
        check("redis://:pw@a:1", "MOVED 3999 127.0.0.1:6381", Some("127.0.0.1:6381"));
        check("rediss://:pw@a:1", "MOVED 3999 b.example:6381", Some("b.example:6381"));
        check("redis://:pw@a:1", "MOVED 3999 ::1:6381", Some("::1:6381"));
        check("redis://:pw@a:1", "MOVED 3999 :6381", Some("a:6381"));
        check("redis://:pw@a:1", "MOVED 3999", None);
        check("redis://:pw@a:1", "MOVED", None);
        check("redis://:pw@a:1", "MOVED 3999 b", None);
        check("redis://:pw@a:1", "ERR no", None);
    }
}
