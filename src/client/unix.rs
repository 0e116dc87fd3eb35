//! HTTP over a Unix socket, as a connector for the client library. No TLS, no proxy, no name resolution.
//!
//! The library does not promise compatibility for these parts, so Cargo.toml pins it to a minor version.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Agent, Error, Timeout};

/// An agent for the server at a socket.
pub(super) fn agent(socket: &Path, config: Config) -> Agent {
    Agent::with_parts(config, UnixConnector(socket.to_owned()), NoResolver)
}

/// The host name in requests.
pub(super) const HOST: &str = "localhost";

/// Connects to one socket.
#[derive(Debug)]
struct UnixConnector(PathBuf);

impl Connector for UnixConnector {
    type Out = UnixTransport;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<UnixTransport>, Error> {
        if details.uri.host() != Some(HOST) {
            let place = details.uri.authority().map_or("", |authority| authority.as_str());
            return Err(Error::BadUri(format!("a redirect leads away from the socket, to {place}")));
        }
        let stream = Arc::new(Stream(UnixStream::connect(&self.0)?));
        let handle: Weak<dyn ShutdownHandle> = Arc::downgrade(&stream) as _;
        (details.register_shutdown)(handle)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(UnixTransport { stream, buffers }))
    }
}

/// Resolves nothing: the connector needs no address, but the library needs a resolver to call it.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push((Ipv4Addr::UNSPECIFIED, 0).into());
        Ok(addresses)
    }
}

#[derive(Debug)]
struct UnixTransport {
    stream: Arc<Stream>,
    buffers: LazyBuffers,
}

#[derive(Debug)]
struct Stream(UnixStream);

impl ShutdownHandle for Stream {
    fn shutdown(&self) {
        let _ = self.0.shutdown(Shutdown::Both); // an error means that it is already shut down
    }
}

impl Transport for UnixTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let mut stream = &self.stream.0;
        stream.set_write_timeout(duration(&timeout))?;
        stream.write_all(&self.buffers.output()[..amount]).map_err(|error| explained(error, timeout.reason))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let mut stream = &self.stream.0;
        stream.set_read_timeout(duration(&timeout))?;
        let count = loop {
            match stream.read(self.buffers.input_append_buf()) {
                // With a timeout, a read is not restarted automatically after the process was stopped (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| explained(error, timeout.reason))?,
            }
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    /// Between requests the connection must have nothing to read: neither an end nor an unsolicited answer.
    fn is_open(&mut self) -> bool {
        let mut stream = &self.stream.0;
        let would_wait = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let is_silent = stream.set_nonblocking(true).is_ok() && would_wait(stream.read(&mut [0]));
        is_silent && stream.set_nonblocking(false).is_ok()
    }
}

fn duration(timeout: &NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|duration| *duration)
}

/// A socket's timeout is reported as if the operation would block.
fn explained(error: io::Error, reason: Timeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => Error::Timeout(reason),
        _ => error.into(),
    }
}
