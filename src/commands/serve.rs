//! `fanfare serve`: puts the server together from its configuration, and turns until it has left.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::doctor;
use super::settings::{check_descriptors, hub_limits, settings};
use super::sources::Sources;
use crate::config::Config;
use crate::event::RunName;
use crate::hub::Hub;
use crate::io::allocator::give_large_blocks_their_own_pages;
use crate::io::epoll::EpollIo;
use crate::io::limits::raise_descriptor_limit;
use crate::io::listener::{ListenAddress, Listener, SocketOptions};
use crate::server::{ListenerRole, Parts, Server};
use crate::sources::channel::{ChannelLimits, Control, channel};
use crate::sources::sequencer::Sequencer;

/// Runs the server until it has left.
pub(super) fn run(config: &Config) -> anyhow::Result<ExitCode> {
    give_large_blocks_their_own_pages();
    let descriptors = raise_descriptor_limit().context("reading the limit on open files")?;
    check_descriptors(descriptors)?;
    let settings = settings(config, descriptors);
    let (listeners, roles) = open_listeners(config)?;
    doctor::warn(config, settings.limits.streams_max, &listeners, &roles);
    let addresses: Vec<_> = listeners.iter().map(|listener| url(listener.address())).collect();
    let io = EpollIo::new(listeners).context("setting up epoll")?;
    let (outlet, inbox) = channel(ChannelLimits::default(), io.wake());
    let run = RunName::from_bits(random_bits()?);
    let sequencer = Sequencer::new(run, vec![outlet.clone()]);
    let live = Arc::default();
    let sources = Sources::start(config, outlet, &sequencer, &live)?;
    pass_signals_on(&sequencer)?;

    let parts = Parts {
        settings,
        hub: Hub::new(run, hub_limits(config)),
        inbox,
        publisher: Arc::clone(&sources.publisher),
        own_events: Arc::clone(&sequencer) as _,
        sources: sources.statuses.clone(),
        live,
        listeners: roles.clone(),
        seed: random_bits()?,
    };
    let mut server = Server::new(io, parts);
    announce(&addresses, &roles)?;
    server.run().context("waiting for events")?;
    Ok(ExitCode::SUCCESS)
}

fn random_bits() -> anyhow::Result<u64> {
    getrandom::u64().context("asking the kernel for random bits")
}

fn open_listeners(config: &Config) -> anyhow::Result<(Vec<Listener>, Vec<ListenerRole>)> {
    let options = SocketOptions {
        backlog: config.listen.backlog,
        send_buffer_bytes: config.io.send_buffer_bytes,
        user_timeout: config.io.tcp_user_timeout,
        keepalive: config.io.tcp_user_timeout,
    };
    let public = config.listen.public.iter().map(|address| (address, ListenerRole::Public));
    let admin = config.listen.admin.iter().map(|address| (address, ListenerRole::Admin));
    let mut opened = (Vec::new(), Vec::new());
    for (address, role) in public.chain(admin) {
        let listener = Listener::open(address, &options);
        opened.0.push(listener.with_context(|| format!("can't listen on {address}"))?);
        opened.1.push(role);
    }
    Ok(opened)
}

fn url(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        ListenAddress::Unix(_) => address.to_string(),
    }
}

/// Tells, on standard output, where the server can be reached: scripts wait for these lines.
#[allow(clippy::print_stdout, reason = "a command's output")]
fn announce(addresses: &[String], roles: &[ListenerRole]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (address, role) in addresses.iter().zip(roles) {
        match role {
            ListenerRole::Public => writeln!(out, "listening on {address}")?,
            ListenerRole::Admin => writeln!(out, "admin listening on {address}")?,
        }
    }
    out.flush().context("writing to standard output")
}

/// SIGTERM and SIGINT ask the loop to leave; through the channel, as everything that reaches it.
fn pass_signals_on(sequencer: &Arc<Sequencer>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("catching signals")?;
    let sequencer = Arc::clone(sequencer);
    let pass = move || signals.forever().for_each(|_| sequencer.control(Control::Drain));
    std::thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(64 << 10)
        .spawn(pass)
        .context("starting the thread for signals")?;
    Ok(())
}
