//! `fanfare serve`: assembles the server from its configuration, and runs its loops until they have shut down.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::doctor;
use super::listeners::Listeners;
use super::loops::{self, Loop, OtherLoops, Pinning};
use super::reload::{ReloadRequests, Reloader};
use super::settings::{check_descriptors, hub, settings};
use super::sources::Sources;
use super::systemd::Systemd;
use super::tls::Tls;
use crate::cli::ServeArgs;
use crate::config::{Config, Environment, Loaded};
use crate::event::RunName;
use crate::io::allocator::{give_large_blocks_their_own_pages, return_free_pages};
use crate::io::limits::{page_bytes, raise_descriptor_limit};
use crate::observe::live::Live;
use crate::observe::logging::FilterControl;
use crate::observe::process;
use crate::server::{Parts, Reloads, Server, Supervisor};
use crate::sources::channel::Control;
use crate::sources::sequencer::Sequencer;

/// Runs the server until it has shut down.
pub(super) fn run(args: ServeArgs, env: Environment, loaded: Loaded, log: FilterControl) -> anyhow::Result<ExitCode> {
    give_large_blocks_their_own_pages();
    let config = &loaded.config;
    let descriptors = raise_descriptor_limit().context("reading the limit on open files")?;
    check_descriptors(descriptors)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let loop_count = config.io.loops.count(cores);
    let listeners = Listeners::open(&loaded, loop_count)?;
    let https_port = listeners.https_port();
    let settings = settings(config, descriptors, https_port);
    warn_if_silent(config);
    doctor::warn(config, settings.streams_max, &listeners.opened, &listeners.parts);
    let announcements = listeners.announcements();
    let (made, outlets) = loops::make(config.io.backend, listeners.of_loops()?)?;
    let run = RunName::from_bits(random_bits()?);
    let sequencer = match config.durable_bus() {
        Some(_) => Sequencer::local(run, outlets.clone()),
        None => Sequencer::new(run, outlets.clone()),
    };
    let live = Arc::<Live>::default();
    process::sample_into(Arc::clone(&live), page_bytes(), return_free_pages)
        .context("starting the thread for the process's figures")?;
    let pinning = Arc::new(Pinning::begin(loop_count));
    if loop_count > 1 {
        tracing::info!(loops = loop_count, pinned = pinning.is_on(), "several event loops share the connections");
    }
    let Tls { threads, current: tls } =
        Tls::start(&config.certificates, https_port.is_some(), cores, loop_count, &sequencer)?;
    let sources = Sources::start(config, outlets, &sequencer, &live)?;
    let (systemd, reloaded) = Systemd::new();
    let mut supervisors = vec![Box::new(systemd) as Box<dyn Supervisor + Send>];
    let (mut parts, mut reloads) = (Vec::new(), Vec::new());
    for (Loop { io, speak_tls, inbox, member, entrances }, of_loop) in made.into_iter().zip(&sources.of_loops) {
        let mailbox = Reloads::default();
        reloads.push(mailbox.clone());
        let of_loop = Parts {
            settings: settings.clone(),
            hub: hub(run, config),
            inbox,
            member,
            publisher: Arc::clone(&of_loop.publisher),
            fetcher: of_loop.fetcher.clone(),
            own_events: Arc::clone(&sequencer) as _,
            sources: sources.statuses.clone(),
            kafka: sources.kafka.clone(),
            live: Arc::clone(&live),
            supervisor: supervisors.pop().unwrap_or_else(|| Box::new(())),
            reloads: mailbox,
            listeners: entrances,
            seed: random_bits()?,
        };
        parts.push((loops::secured(io, speak_tls, &threads), of_loop));
    }
    let others = parts.split_off(1);
    let (io, first) = parts.remove(0);
    let mut server = Server::new(io, first);
    let reloader = Reloader { args, env, loaded, descriptors, https_port, tls, log, reloads, reloaded };
    let reload_requests = reloader.start(&sequencer).context("starting the thread for reloads")?;
    pass_signals_on(&sequencer, reload_requests)?;
    announce(announcements).context("starting the thread for standard output")?;
    let others = OtherLoops::start(others, &pinning, &sequencer).context("starting the threads of event loops")?;
    loops::pin_first(&pinning);
    server.run().context("waiting for events")?;
    drop(server);
    others.join()?;
    Ok(ExitCode::SUCCESS)
}

/// Only a warning: a reload may add a token.
fn warn_if_silent(config: &Config) {
    let security = &config.security;
    let may_publish = security.dev || security.jwt.is_some() || !security.publish_tokens.is_empty();
    if config.redis.is_none() && config.postgres.is_none() && config.kafka.is_none() && !may_publish {
        tracing::warn!(
            "nothing can be published: there is no source, and no token to publish with; give --redis-url, \
             --publish-token-file or --dev"
        );
    }
}

fn random_bits() -> anyhow::Result<u64> {
    getrandom::u64().context("asking the kernel for random bits")
}

/// Prints on standard output where the server can be reached: scripts wait for these lines. A separate thread prints,
/// so that the server also serves where the lines can't be written or no process reads them.
fn announce(listeners: Vec<String>) -> io::Result<()> {
    let write = move || {
        let mut out = io::stdout().lock();
        let written = listeners.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
        if let Err(error) = written {
            tracing::warn!(%error, "can't write the listening addresses to standard output: {}", listeners.join(", "));
        }
    };
    std::thread::Builder::new().name("announce".to_owned()).spawn(write).map(drop)
}

/// SIGTERM and SIGINT ask the loop to shut down, SIGHUP requests a reload. The thread never waits for a reload, which
/// may hang on the disk that it reads from.
fn pass_signals_on(sequencer: &Arc<Sequencer>, mut reload_requests: ReloadRequests) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("catching signals")?;
    let sequencer = Arc::clone(sequencer);
    let pass = move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                reload_requests.request();
            } else {
                reload_requests.close();
                sequencer.control(&Control::Drain);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(pass).context("starting the thread for signals")?;
    Ok(())
}
