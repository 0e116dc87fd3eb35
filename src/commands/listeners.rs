//! The listeners of `fanfare serve`: those that a service manager passed, and those that the configuration names.

use std::io;

use anyhow::{Context, anyhow};

use super::UsageError;
use crate::config::Loaded;
use crate::io::activation::{self, Passed};
use crate::io::listener::{ListenAddress, Listener};
use crate::io::socket_options::SocketOptions;
use crate::server::{Entrance, ListenerRole, Reach};

/// Opened listeners, each with its role in the server.
pub(super) struct Listeners {
    pub(super) opened: Vec<Listener>,
    pub(super) roles: Vec<ListenerRole>,
    options: SocketOptions,
    /// How many loops listen.
    loops: usize,
}

/// The listeners of one loop.
pub(super) struct LoopListeners {
    pub(super) opened: Vec<Listener>,
    /// What the server needs to know about each.
    pub(super) entrances: Vec<Entrance>,
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
        let mut listeners = Listeners { opened: Vec::new(), roles: Vec::new(), options, loops };
        for passed in activation::take_passed().context("taking the sockets that were passed")? {
            listeners.inherit(passed, config.security.dev)?;
        }
        let opens_public =
            loaded.settings.get("listen").is_explicit() || !listeners.roles.contains(&ListenerRole::Public);
        let public =
            config.listen.public.iter().filter(|_| opens_public).map(|address| (address, ListenerRole::Public));
        let admin = config.listen.admin.iter().map(|address| (address, ListenerRole::Admin));
        for (address, role) in public.chain(admin) {
            listeners.open_unless_inherited(address, role)?;
        }
        Ok(listeners)
    }

    fn inherit(&mut self, passed: Passed, is_dev: bool) -> anyhow::Result<()> {
        let Passed { descriptor, name } = passed;
        let role = role(&name)?;
        let listener = Listener::inherit(descriptor, &self.options).with_context(|| format!("the socket {name}"))?;
        if is_dev && !listener.address().is_local() {
            let reason = "--dev allows every client that reaches a listener to publish: listen only on loopback";
            return Err(UsageError(format!("the socket {name} on {}: {reason}", listener.address())).into());
        }
        self.push(listener, role);
        Ok(())
    }

    fn open_unless_inherited(&mut self, address: &ListenAddress, role: ListenerRole) -> anyhow::Result<()> {
        let is_same =
            |(listener, its_role): (&Listener, &ListenerRole)| listener.address() == address && *its_role == role;
        let is_inherited = self.opened.iter().zip(&self.roles).any(is_same);
        if !is_inherited {
            let is_shared = role == ListenerRole::Public && self.loops > 1;
            let opened = Listener::open(address, &self.options, is_shared);
            let listener = opened.map_err(|error| refused(address, role, &error))?;
            self.push(listener, role);
        }
        Ok(())
    }

    fn push(&mut self, listener: Listener, role: ListenerRole) {
        self.opened.push(listener);
        self.roles.push(role);
    }

    /// The listeners of each loop. All loops have the public ones; operators' connections are those of the first loop.
    pub(super) fn of_loops(mut self) -> anyhow::Result<Vec<LoopListeners>> {
        let mut others = Vec::new();
        for _ in 1..self.loops {
            let mut of_loop = LoopListeners { opened: Vec::new(), entrances: Vec::new() };
            for (listener, role) in
                self.opened.iter_mut().zip(&self.roles).filter(|(_, role)| **role != ListenerRole::Admin)
            {
                let listener = listener
                    .for_another_loop(&self.options)
                    .map_err(|error| refused(listener.address(), *role, &error))?;
                of_loop.entrances.push(entrance(&listener, *role));
                of_loop.opened.push(listener);
            }
            others.push(of_loop);
        }
        let entrances = self.opened.iter().zip(&self.roles).map(|(listener, role)| entrance(listener, *role)).collect();
        Ok(std::iter::once(LoopListeners { opened: self.opened, entrances }).chain(others).collect())
    }

    /// One line per listener; scripts wait for these lines.
    pub(super) fn announcements(&self) -> Vec<String> {
        let line = |(listener, role): (&Listener, &ListenerRole)| match role {
            ListenerRole::Public => format!("listening on {}", url(listener.address())),
            ListenerRole::Admin => format!("admin listening on {}", url(listener.address())),
        };
        self.opened.iter().zip(&self.roles).map(line).collect()
    }
}

fn entrance(listener: &Listener, role: ListenerRole) -> Entrance {
    let reach = match listener.address() {
        ListenAddress::Unix(_) => Reach::UnixSocket,
        address @ ListenAddress::Tcp(_) if address.is_local() => Reach::Loopback,
        ListenAddress::Tcp(_) => Reach::Network,
    };
    Entrance { role, reach }
}

/// A socket's role, by its unit's `FileDescriptorName`; a unit without one passes its own name.
fn role(name: &str) -> anyhow::Result<ListenerRole> {
    match name {
        "admin" => Ok(ListenerRole::Admin),
        "public" | "unknown" => Ok(ListenerRole::Public),
        unit if unit.ends_with(".socket") => Ok(ListenerRole::Public),
        _ => {
            let reason = "FileDescriptorName must be public or admin";
            Err(UsageError(format!("a socket named {name} was passed: {reason}")).into())
        }
    }
}

fn refused(address: &ListenAddress, role: ListenerRole, error: &io::Error) -> anyhow::Error {
    let option = match role {
        ListenerRole::Public => "--listen",
        ListenerRole::Admin => "--admin-listen",
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

fn url(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        ListenAddress::Unix(_) => address.to_string(),
    }
}
