//! Listening sockets: opened with their backlog and with the options that every accepted connection inherits.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use socket2::{Domain, SockAddr, Socket, Type};

use super::socket_options::SocketOptions;

/// Where to listen: a TCP address or the path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `ADDR:PORT`; port 0 lets the kernel pick one.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// True when only this host can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    /// Refuses names except `localhost`: the answer of a resolver may change, and may be public.
    fn from_str(text: &str) -> Result<ListenAddress, String> {
        const ADVICE: &str = "allowed is ADDR:PORT (127.0.0.1:3001, 0.0.0.0:3001, [::1]:3001) or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path, such as unix:/run/fanfare/fanfare.sock".to_owned()),
                _ => Ok(ListenAddress::Unix(path.into())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(ListenAddress::Tcp(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else { return Err(ADVICE.to_owned()) };
        let Ok(port) = port.parse::<u16>() else {
            return Err(format!("the port must be a number from 0 to 65535; {ADVICE}"));
        };
        match host {
            "localhost" => Ok(ListenAddress::Tcp((Ipv4Addr::LOCALHOST, port).into())),
            "" | "*" => Err(format!("for every address of this host write 0.0.0.0:{port} or [::]:{port}")),
            _ => Err(format!("names are not looked up; {ADVICE}")),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket, non-blocking.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
    address: ListenAddress,
    is_inherited: bool,
    is_exclusive: bool,
    /// Dropping it removes the file of a unix socket: true for the one that has bound it.
    removes_file: bool,
}

impl Listener {
    /// Binds and listens. With `is_shared`, [`Listener::for_another_loop`] can open more on the same address.
    pub fn open(address: &ListenAddress, options: &SocketOptions, is_shared: bool) -> io::Result<Listener> {
        let socket = match address {
            ListenAddress::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM.nonblocking(), None)?;
                socket.set_reuse_address(true)?;
                options.set_on(&socket, Domain::for_address(*address))?;
                // Only after the bind: it must fail while another server listens on this address.
                socket.bind(&(*address).into())?;
                socket.set_reuse_port(is_shared)?;
                socket
            }
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
                options.set_on(&socket, Domain::UNIX)?;
                socket.bind(&SockAddr::unix(path)?)?;
                // The proxy in front usually runs as another user; access to the folder decides which users may
                // connect.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
                socket
            }
        };
        socket.listen(backlog(options))?;
        let address = match socket.local_addr()?.as_socket() {
            Some(bound) => ListenAddress::Tcp(bound),
            None => address.clone(),
        };
        let descriptor = socket.into();
        Ok(Listener { descriptor, address, is_inherited: false, is_exclusive: false, removes_file: true })
    }

    /// A listener on the same address for another loop. The kernel spreads connections over several TCP sockets; a unix
    /// socket, or an inherited one, is shared, and each connection wakes one loop.
    pub fn for_another_loop(&mut self, options: &SocketOptions) -> io::Result<Listener> {
        if let (ListenAddress::Tcp(address), false) = (&self.address, self.is_inherited) {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM.nonblocking(), None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            options.set_on(&socket, Domain::for_address(*address))?;
            socket.bind(&(*address).into())?;
            socket.listen(backlog(options))?;
            return Ok(self.sibling(socket.into()));
        }
        self.is_exclusive = true;
        self.descriptor.try_clone().map(|descriptor| self.sibling(descriptor))
    }

    /// Another listener of this kind on the same address.
    fn sibling(&self, descriptor: OwnedFd) -> Listener {
        Listener { descriptor, address: self.address.clone(), removes_file: false, ..*self }
    }

    /// Takes over a listening socket that the process manager opened and keeps open: its address and its backlog are
    /// set there.
    pub fn inherit(descriptor: OwnedFd, options: &SocketOptions) -> io::Result<Listener> {
        let socket = Socket::from(descriptor);
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return refuse("it is no stream socket that listens (a unit's Accept=yes passes connections instead)");
        }
        let local = socket.local_addr()?;
        let address = match (local.as_socket(), local.as_pathname()) {
            (Some(address), _) => ListenAddress::Tcp(address),
            (None, Some(path)) => ListenAddress::Unix(path.to_owned()),
            (None, None) => return refuse("it is neither TCP nor a unix socket with a path"),
        };
        socket.set_nonblocking(true)?;
        options.set_on(&socket, local.domain())?;
        let descriptor = socket.into();
        Ok(Listener { descriptor, address, is_inherited: true, is_exclusive: false, removes_file: false })
    }

    /// True when the socket outlives this process.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// True when loops share the socket: a connection is to wake one of them (EPOLLEXCLUSIVE).
    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// Its address, with the actual port.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let ListenAddress::Unix(path) = &self.address
            && self.removes_file
        {
            // The file may already be gone; an error has no receiver here.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn backlog(options: &SocketOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

/// Removes the socket file that a crashed server left behind; the file of a live server stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens on this path")),
            Err(_) => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OPTIONS: SocketOptions = SocketOptions {
        backlog: 512,
        send_buffer_bytes: None,
        unsent_bytes_max: 16 << 10,
        user_timeout: Duration::from_secs(120),
    };

    #[test]
    fn listeners_are_addresses_not_names() {
        let listen = |text: &str| text.parse::<ListenAddress>();
        let reads = |text: &str, shown: &str, local| {
            let address = listen(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (shown, local), "{text}");
        };
        reads("127.0.0.1:3001", "127.0.0.1:3001", true);
        reads("localhost:0", "127.0.0.1:0", true);
        reads("[::1]:3001", "[::1]:3001", true);
        reads("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1", true);
        reads("0.0.0.0:80", "0.0.0.0:80", false);
        reads("[::]:80", "[::]:80", false);
        reads("unix:/run/f.sock", "unix:/run/f.sock", true);
        let refuses = |text: &str, why: &str| assert!(listen(text).unwrap_err().contains(why), "{text}");
        refuses("unix:", "needs a path");
        refuses("3001", "ADDR:PORT");
        refuses("127.0.0.1", "ADDR:PORT");
        refuses("127.0.0.1:65536", "0 to 65535");
        refuses(":3001", "0.0.0.0:3001");
        refuses("*:3001", "0.0.0.0:3001");
        refuses("example.com:80", "names are not looked up");
    }

    #[test]
    fn port_zero_takes_a_free_port() {
        let listener = Listener::open(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()), &OPTIONS, false).unwrap();
        assert!(matches!(listener.address(), ListenAddress::Tcp(address) if address.port() != 0));
    }

    /// An accepted connection with the options that it inherited.
    fn accepted(listener: &Listener) -> Socket {
        let ListenAddress::Tcp(address) = *listener.address() else { panic!("a TCP listener") };
        let _peer = std::net::TcpStream::connect(address).unwrap();
        let listener = Socket::from(listener.descriptor.try_clone().unwrap());
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap().0
    }

    #[test]
    fn an_accepted_connection_has_the_options_of_its_listener() {
        let any_port = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let connection = accepted(&Listener::open(&any_port, &OPTIONS, false).unwrap());
        assert!(connection.tcp_nodelay().unwrap());
        assert_eq!(connection.tcp_notsent_lowat().unwrap(), 16 << 10);
        assert_eq!(connection.tcp_user_timeout().unwrap(), Some(OPTIONS.user_timeout));
        assert!(!connection.keepalive().unwrap());

        let fixed = SocketOptions { send_buffer_bytes: Some(16 << 10), ..OPTIONS };
        let fixed = accepted(&Listener::open(&any_port, &fixed, false).unwrap());
        assert_eq!(fixed.send_buffer_size().unwrap(), 32 << 10, "the kernel doubles it");
        assert!(connection.send_buffer_size().unwrap() > 32 << 10, "the kernel tunes it");
    }

    #[test]
    fn a_send_buffer_that_was_fixed_on_an_inherited_listener_is_tuned_again() {
        let passed = Socket::from(OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap()));
        passed.set_send_buffer_size(16 << 10).unwrap();
        let connection = accepted(&Listener::inherit(passed.into(), &OPTIONS).unwrap());
        assert!(connection.send_buffer_size().unwrap() > 32 << 10);
    }

    #[test]
    fn loops_listen_on_one_address_and_another_server_does_not() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let mut first = Listener::open(&ListenAddress::Tcp(address.parse().unwrap()), &OPTIONS, true).unwrap();
            let second = first.for_another_loop(&OPTIONS).unwrap();
            assert!(second.address() == first.address() && !second.is_exclusive());
            for is_shared in [false, true] {
                let refused = Listener::open(first.address(), &OPTIONS, is_shared).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
            }
        }
        let passed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut first = Listener::inherit(passed.into(), &OPTIONS).unwrap();
        let second = first.for_another_loop(&OPTIONS).unwrap();
        assert!(first.is_exclusive() && second.is_exclusive() && second.is_inherited());
    }

    #[test]
    fn only_a_socket_that_listens_is_inherited() {
        let refuses = |descriptor: OwnedFd| {
            let refused = Listener::inherit(descriptor, &OPTIONS).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
        };
        refuses(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into());
        refuses(std::os::unix::net::UnixStream::pair().unwrap().0.into());
        let passed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ListenAddress::Tcp(passed.local_addr().unwrap());
        let listener = Listener::inherit(passed.into(), &OPTIONS).unwrap();
        assert!(listener.is_inherited() && *listener.address() == address);
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(folder.path().join("fanfare.sock"));
        let first = Listener::open(&address, &OPTIONS, false).unwrap();
        let refused = Listener::open(&address, &OPTIONS, false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        std::mem::forget(first); // keeps the file, as a killed server would, and the socket listening
        drop(Listener::open(&ListenAddress::Unix(folder.path().join("other.sock")), &OPTIONS, false).unwrap());
        assert!(!folder.path().join("other.sock").exists(), "an orderly end removes its file");
    }

    #[test]
    fn the_file_of_a_unix_socket_that_loops_share_goes_with_the_listener_that_bound_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fanfare.sock");
        let mut first = Listener::open(&ListenAddress::Unix(path.clone()), &OPTIONS, true).unwrap();
        let second = first.for_another_loop(&OPTIONS).unwrap();
        drop(first);
        assert!(!path.exists());
        let _new_server = Listener::open(&ListenAddress::Unix(path.clone()), &OPTIONS, false).unwrap();
        drop(second);
        assert!(path.exists());
    }
}
