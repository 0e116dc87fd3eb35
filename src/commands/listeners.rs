//! The listeners of `fanfare serve`: those that a service manager passed, and those that the configuration names.

use std::io;

use anyhow::{Context, anyhow};

use super::UsageError;
use crate::config::{ClientListener, Loaded, Speaks};
use crate::io::activation::{self, Passed};
use crate::io::listener::{ListenAddress, Listener};
use crate::io::socket_options::SocketOptions;
use crate::server::{Entrance, ListenerRole, Reach};

/// Opened listeners, each with its part in the server.
pub(super) struct Listeners {
    pub(super) opened: Vec<Listener>,
    pub(super) parts: Vec<Part>,
    options: SocketOptions,
    /// How many loops listen.
    loops: usize,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Clients.
    Clients(Speaks),
    /// Operators.
    Admin,
}

impl Part {
    fn role(self) -> ListenerRole {
        match self {
            Part::Clients(Speaks::Http | Speaks::Https) => ListenerRole::Public,
            Part::Clients(Speaks::Redirects) => ListenerRole::Redirect,
            Part::Admin => ListenerRole::Admin,
        }
    }

    /// True for listeners that serve the whole API.
    pub(super) fn is_public(self) -> bool {
        self.role() == ListenerRole::Public
    }
}

/// The listeners of one loop.
#[derive(Default)]
pub(super) struct LoopListeners {
    pub(super) opened: Vec<Listener>,
    /// Which of them speak TLS.
    pub(super) speak_tls: Vec<bool>,
    /// What the server needs to know about each.
    pub(super) entrances: Vec<Entrance>,
}

impl LoopListeners {
    fn push(&mut self, listener: Listener, part: Part) {
        let reach = match listener.address() {
            ListenAddress::Unix(_) => Reach::UnixSocket,
            address @ ListenAddress::Tcp(_) if address.is_local() => Reach::Loopback,
            ListenAddress::Tcp(_) => Reach::Network,
        };
        self.entrances.push(Entrance { role: part.role(), reach });
        self.speak_tls.push(part == Part::Clients(Speaks::Https));
        self.opened.push(listener);
    }
}

impl Listeners {
    /// Takes the sockets that were passed, and opens the configured listeners that are not among them. A default
    /// listener is not opened if a public socket was passed.
    pub(super) fn open(loaded: &Loaded, loops: usize) -> anyhow::Result<Listeners> {
        let config = &loaded.config;
        let options = SocketOptions {
            backlog: config.listen.backlog,
            send_buffer_bytes: config.io.send_buffer_bytes,
            unsent_bytes_max: config.io.unsent_bytes_max,
            user_timeout: config.tcp_user_timeout,
        };
        let mut listeners = Listeners { opened: Vec::new(), parts: Vec::new(), options, loops };
        for passed in activation::take_passed().context("taking the sockets that were passed")? {
            listeners.inherit(passed, config.security.dev)?;
        }
        let has_public = listeners.parts.iter().any(|part| part.is_public());
        let opens_clients = loaded.settings.get("listen").is_explicit() || !has_public;
        let of_clients =
            |ClientListener { speaks, address }: &ClientListener| (address.clone(), Part::Clients(*speaks));
        let clients = config.listen.public.iter().filter(|_| opens_clients).map(of_clients);
        let admin = config.listen.admin.iter().map(|address| (address.clone(), Part::Admin));
        for (address, part) in clients.chain(admin) {
            listeners.open_unless_inherited(&address, part)?;
        }
        listeners.check_tls(!config.certificates.is_empty())?;
        Ok(listeners)
    }

    /// Checks what sockets with TLS need, those that were passed included.
    fn check_tls(&self, has_certificate: bool) -> Result<(), UsageError> {
        let speak = |speaks| self.parts.contains(&Part::Clients(speaks));
        if speak(Speaks::Https) && !has_certificate {
            let reason = "a socket named tls was passed, and it needs a certificate: give tls-certificate and tls-key";
            return Err(UsageError(reason.to_owned()));
        }
        if speak(Speaks::Redirects) && !speak(Speaks::Https) {
            let reason =
                "a listener redirects, and there is none with TLS to send clients to: add --listen tls:ADDR:PORT";
            return Err(UsageError(reason.to_owned()));
        }
        if has_certificate && !speak(Speaks::Https) {
            tracing::warn!("tls-certificate has no effect: no listener speaks TLS; add --listen tls:ADDR:PORT");
        }
        Ok(())
    }

    /// The port of the first listener that speaks TLS, if there is one.
    pub(super) fn https_port(&self) -> Option<u16> {
        let speaks_tls = |(_, part): &(&Listener, &Part)| **part == Part::Clients(Speaks::Https);
        match self.opened.iter().zip(&self.parts).find(speaks_tls).map(|(listener, _)| listener.address()) {
            Some(ListenAddress::Tcp(address)) => Some(address.port()),
            _ => None,
        }
    }

    fn inherit(&mut self, passed: Passed, is_dev: bool) -> anyhow::Result<()> {
        let Passed { descriptor, name } = passed;
        let part = part(&name)?;
        let listener = Listener::inherit(descriptor, &self.options).with_context(|| format!("the socket {name}"))?;
        if is_dev && !listener.address().is_local() {
            let reason = "--dev allows every client that reaches a listener to publish: listen only on loopback";
            return Err(UsageError(format!("the socket {name} on {}: {reason}", listener.address())).into());
        }
        if matches!(part, Part::Clients(Speaks::Https | Speaks::Redirects))
            && matches!(listener.address(), ListenAddress::Unix(_))
        {
            let reason = "a unix socket can't be named tls or redirect: there, the proxy speaks TLS";
            return Err(UsageError(format!("the socket {name} on {}: {reason}", listener.address())).into());
        }
        self.push(listener, part);
        Ok(())
    }

    fn open_unless_inherited(&mut self, address: &ListenAddress, part: Part) -> anyhow::Result<()> {
        let is_same = |(listener, its_part): (&Listener, &Part)| listener.address() == address && *its_part == part;
        let is_inherited = self.opened.iter().zip(&self.parts).any(is_same);
        if !is_inherited {
            let is_shared = part != Part::Admin && self.loops > 1;
            let opened = Listener::open(address, &self.options, is_shared);
            let listener = opened.map_err(|error| refused(address, part, &error))?;
            self.push(listener, part);
        }
        Ok(())
    }

    fn push(&mut self, listener: Listener, part: Part) {
        self.opened.push(listener);
        self.parts.push(part);
    }

    /// The listeners of each loop. All loops have the public ones; operators' connections are those of the first loop.
    pub(super) fn of_loops(mut self) -> anyhow::Result<Vec<LoopListeners>> {
        let mut others = Vec::new();
        for _ in 1..self.loops {
            let mut of_loop = LoopListeners::default();
            for (listener, part) in self.opened.iter_mut().zip(&self.parts).filter(|(_, part)| **part != Part::Admin) {
                let listener = listener
                    .for_another_loop(&self.options)
                    .map_err(|error| refused(listener.address(), *part, &error))?;
                of_loop.push(listener, *part);
            }
            others.push(of_loop);
        }
        let mut first = LoopListeners::default();
        self.opened.into_iter().zip(self.parts).for_each(|(listener, part)| first.push(listener, part));
        Ok(std::iter::once(first).chain(others).collect())
    }

    /// One line per listener; scripts wait for these lines.
    pub(super) fn announcements(&self) -> Vec<String> {
        let line = |(listener, part): (&Listener, &Part)| match part {
            Part::Clients(Speaks::Http) => format!("listening on {}", url("http", listener.address())),
            Part::Clients(Speaks::Https) => format!("listening on {}", url("https", listener.address())),
            Part::Clients(Speaks::Redirects) => format!("redirecting from {}", url("http", listener.address())),
            Part::Admin => format!("admin listening on {}", url("http", listener.address())),
        };
        self.opened.iter().zip(&self.parts).map(line).collect()
    }
}

/// What a socket is for, by its unit's `FileDescriptorName`; a unit without one passes its own name.
fn part(name: &str) -> anyhow::Result<Part> {
    match name {
        "admin" => Ok(Part::Admin),
        "tls" => Ok(Part::Clients(Speaks::Https)),
        "redirect" => Ok(Part::Clients(Speaks::Redirects)),
        "public" | "unknown" => Ok(Part::Clients(Speaks::Http)),
        unit if unit.ends_with(".socket") => Ok(Part::Clients(Speaks::Http)),
        _ => {
            let reason = "FileDescriptorName must be public, tls, redirect or admin";
            Err(UsageError(format!("a socket named {name} was passed: {reason}")).into())
        }
    }
}

fn refused(address: &ListenAddress, part: Part, error: &io::Error) -> anyhow::Error {
    let option = match part {
        Part::Clients(_) => "--listen",
        Part::Admin => "--admin-listen",
    };
    match address {
        ListenAddress::Tcp(_) if error.kind() == io::ErrorKind::AddrInUse => anyhow!(
            "can't listen on {address}: the address is in use, perhaps by another server; choose another port with \
             {option} ADDR:PORT"
        ),
        ListenAddress::Unix(path) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path).display();
            anyhow!(
                "can't listen on {address}: the folder {folder} does not exist; create it, owned by this user: \
                 sudo install -d -o \"$(id -un)\" {folder} (for the service, systemd creates it: RuntimeDirectory= in \
                 its unit)"
            )
        }
        ListenAddress::Unix(path) if error.kind() == io::ErrorKind::PermissionDenied => {
            let folder = path.parent().unwrap_or(path).display();
            anyhow!("can't listen on {address}: {error}; this user must be allowed to write into {folder}")
        }
        _ => anyhow!("can't listen on {address}: {error}"),
    }
}

fn url(scheme: &str, address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => format!("{scheme}://{address}"),
        ListenAddress::Unix(_) => address.to_string(),
    }
}
