//! A connection to Redis with access to its bytes: the redis crate packs what is sent, and [`Replies`] reads what comes
//! back. This module connects, verifies TLS and logs in, because the crate's own connections do not expose their bytes.
//!
//! A signal never ends a read or a write: after a process is stopped and continued, its connections still work. The
//! socket's timeouts bound every wait.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionAddr, ErrorKind, RedisConnectionInfo, RedisError, RedisResult, Value};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::replies::{Replies, Reply, ReplyLimits, Violation};

/// An open connection, logged in.
#[derive(Debug)]
pub struct RedisConnection {
    stream: Stream,
    replies: Replies,
    reply_timeout: Duration,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl RedisConnection {
    /// Connects and logs in, both within `connect_timeout`; each address of a name has its own timeout. `trusted` are
    /// the authorities for TLS; `None`: those of this host.
    pub(super) fn open(
        address: &ConnectionAddr,
        login: &RedisConnectionInfo,
        trusted: Option<&RootCertStore>,
        connect_timeout: Duration,
        limits: ReplyLimits,
    ) -> RedisResult<RedisConnection> {
        let stream = match address {
            ConnectionAddr::Tcp(host, port) => Stream::Tcp(connect_tcp(host, *port, connect_timeout)?),
            ConnectionAddr::TcpTls { host, port, .. } => {
                let began = Instant::now();
                let tcp = connect_tcp(host, *port, connect_timeout)?;
                Stream::Tls(Box::new(shake_hands(host, tcp, trusted, rest_of(connect_timeout, began)?)?))
            }
            ConnectionAddr::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
        };
        let mut connection = RedisConnection { stream, replies: Replies::new(limits), reply_timeout: connect_timeout };
        connection.set_timeouts(connect_timeout)?;
        connection.log_in(login)?;
        Ok(connection)
    }

    /// How long one reply, or one write, may take from now on.
    pub fn set_timeouts(&mut self, timeout: Duration) -> io::Result<()> {
        self.reply_timeout = timeout;
        self.set_read_timeout(timeout)?;
        match &self.stream {
            Stream::Tcp(tcp) => tcp.set_write_timeout(Some(timeout)),
            Stream::Tls(tls) => tls.sock.set_write_timeout(Some(timeout)),
            Stream::Unix(unix) => unix.set_write_timeout(Some(timeout)),
        }
    }

    /// How long one read may take from now on.
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(tcp) => tcp.set_read_timeout(Some(timeout)),
            Stream::Tls(tls) => tls.sock.set_read_timeout(Some(timeout)),
            Stream::Unix(unix) => unix.set_read_timeout(Some(timeout)),
        }
    }

    /// Sends packed commands.
    pub fn send(&mut self, commands: &[u8]) -> RedisResult<()> {
        self.stream.write_all(commands)?;
        // TLS may buffer what it could not send at once.
        retry_interrupted(|| self.stream.flush())?;
        Ok(())
    }

    /// Reads once what is there; false: nothing arrived in time.
    pub fn receive(&mut self) -> RedisResult<bool> {
        match retry_interrupted(|| self.stream.read(self.replies.space())) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection").into()),
            Ok(bytes) => {
                self.replies.filled(bytes);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next of the received replies.
    #[allow(clippy::should_implement_trait, reason = "what it returns borrows from it")]
    pub fn next(&mut self) -> RedisResult<Option<Reply<'_>>> {
        self.replies.next().map_err(violated)
    }

    /// Waits for the next reply that is not a message; messages before it go to `on_message`.
    pub fn reply(&mut self, mut on_message: impl FnMut(Reply<'_>)) -> RedisResult<Value> {
        let (began, mut is_late) = (Instant::now(), false);
        loop {
            while let Some(reply) = self.replies.next().map_err(violated)? {
                match reply {
                    Reply::Other(bytes) => return redis::parse_redis_value(bytes),
                    message => on_message(message),
                }
            }
            let now = Instant::now();
            if is_late || !self.receive()? {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            // Uses the time before the read: data that came while the process was stopped came in time.
            is_late = now.duration_since(began) >= self.reply_timeout;
        }
    }

    /// Sends a command and waits for its answer; an error reply becomes an `Err`.
    pub fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.send(&command.get_packed_command())?;
        self.reply(|_| {})?.extract_error()
    }

    fn log_in(&mut self, login: &RedisConnectionInfo) -> RedisResult<()> {
        if let Some(password) = login.password() {
            let answer = match self.ask(redis::cmd("AUTH").arg(login.username()).arg(password)) {
                // Redis before version 6 has no users.
                Err(error) if login.username().is_some() && is_of_arity(&error) => {
                    self.ask(redis::cmd("AUTH").arg(password))
                }
                answer => answer,
            };
            match answer {
                Ok(Value::Okay) => {}
                Ok(_) => return Err(violated(Violation::Syntax)),
                Err(error) if error.code().is_none() => return Err(error),
                Err(_) => return Err((ErrorKind::AuthenticationFailed, "Password authentication failed").into()),
            }
        }
        if login.db() != 0 {
            self.ask(redis::cmd("SELECT").arg(login.db()))?;
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.read(bytes),
            Stream::Tls(tls) => tls.read(bytes),
            Stream::Unix(unix) => unix.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
            Stream::Unix(unix) => unix.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tls(tls) => tls.flush(),
            Stream::Tcp(_) | Stream::Unix(_) => Ok(()),
        }
    }
}

fn connect_tcp(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "its host name has no address"));
    for address in (host, port).to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&address, timeout);
        if outcome.is_ok() {
            break;
        }
    }
    let tcp = outcome?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn shake_hands(
    host: &str,
    mut tcp: TcpStream,
    trusted: Option<&RootCertStore>,
    timeout: Duration,
) -> RedisResult<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_root_certificates(trusted.cloned().unwrap_or_else(authorities_of_host))
        .with_no_client_auth();
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    tcp.set_read_timeout(Some(timeout))?;
    tcp.set_write_timeout(Some(timeout))?;
    while session.is_handshaking() {
        retry_interrupted(|| session.complete_io(&mut tcp))?;
    }
    Ok(StreamOwned::new(session, tcp))
}

/// Read again for each connection, so that a newly added authority needs no restart.
fn authorities_of_host() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn rest_of(timeout: Duration, began: Instant) -> io::Result<Duration> {
    let rest = timeout.checked_sub(began.elapsed()).filter(|rest| !rest.is_zero());
    rest.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// A stop and a resume interrupt calls that have a timeout, although no handler ran (signal(7)).
fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn is_of_arity(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("wrong number of arguments for 'auth' command"))
}

fn violated(violation: Violation) -> RedisError {
    io::Error::new(io::ErrorKind::InvalidData, violation).into()
}
