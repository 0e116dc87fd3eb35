//! `fanfare serve`: puts the server together from its configuration, and turns until it has left.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::sources::Sources;
use crate::auth::Tokens;
use crate::config::{self, Config, CorsPolicy};
use crate::event::RunName;
use crate::hub::{Hub, HubLimits};
use crate::io::epoll::EpollIo;
use crate::io::limits::raise_descriptor_limit;
use crate::io::listener::{ListenAddress, Listener, SocketOptions};
use crate::protocol::head::HeadLimits;
use crate::protocol::publish::PublishLimits;
use crate::server::settings::{Cors, Delivery, Drain, Limits, Publishing, Settings, SlowPolicy};
use crate::server::{ListenerRole, Parts, Server};
use crate::sources::channel::{ChannelLimits, Control, channel};
use crate::sources::sequencer::Sequencer;

/// Descriptors that are no connection: listeners, sources, logs, epoll itself, and some to spare.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Connections beyond the limit on streams: for health checks, publishers, and telling others to come back.
const REQUESTS_RESERVED: usize = 256;
/// Events in one publish.
const BATCH_MAX: usize = 1000;

/// Runs the server until it has left.
pub(super) fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let descriptors = raise_descriptor_limit().context("reading the limit on open files")?;
    let settings = settings(config, descriptors);
    let (listeners, roles) = open_listeners(config)?;
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

fn settings(config: &Config, descriptors: u64) -> Settings {
    let connections_total_max = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(usize::MAX);
    let streams_allowed = connections_total_max.saturating_sub(REQUESTS_RESERVED).max(1);
    let streams_wanted = config.limits.connections_max.map_or(streams_allowed, |max| max as usize);
    if streams_wanted > streams_allowed {
        tracing::warn!(
            wanted = streams_wanted,
            allowed = streams_allowed,
            descriptors,
            "--max-connections is more than the limit on open files allows; raise LimitNOFILE or ulimit -n"
        );
    }
    let streams_max = streams_wanted.min(streams_allowed);
    let tokens = Tokens::new(config.security.publish_tokens.iter().map(config::Secret::expose));
    let redis_required = config.redis.as_ref().is_some_and(|redis| redis.is_required);
    Settings {
        default_topic: config.delivery.default_topic.clone(),
        dashboard_topic: config.delivery.dashboard_topic.clone(),
        stream_endpoint: config.delivery.stream_endpoint.as_ref().map(|path| path.as_str().to_owned()),
        delivery: Delivery {
            retry: config.delivery.retry,
            heartbeat_interval: config.delivery.heartbeat_interval,
            stall_timeout: config.delivery.stall_timeout,
            slow_policy: match config.delivery.slow_policy {
                config::SlowPolicy::Close => SlowPolicy::Close,
                config::SlowPolicy::Skip => SlowPolicy::Skip,
            },
            interval_floor: config.delivery.interval_floor,
            catch_up_bytes_per_tick: config.history.catch_up_bytes_max,
        },
        limits: limits(config, streams_max),
        publishing: match (config.security.dev, tokens.is_empty()) {
            (true, _) => Publishing::Loopback(tokens),
            (false, true) => Publishing::Refused,
            (false, false) => Publishing::Tokens(tokens),
        },
        operators: Tokens::new(config.security.operator_tokens.iter().map(config::Secret::expose)),
        cors: cors(config),
        drain: Drain { notice: config.drain.notice, duration: config.drain.duration },
        ready_requires: redis_required.then(|| "redis".to_owned()).into_iter().collect(),
        connections_total_max: streams_max.saturating_add(REQUESTS_RESERVED).min(connections_total_max),
    }
}

fn limits(config: &Config, streams_max: usize) -> Limits {
    let limits = &config.limits;
    Limits {
        streams_max,
        connections_per_address_max: limits.connections_per_ip_max,
        accepts_per_second_max: limits.accepts_per_second_max,
        head: HeadLimits {
            head_bytes_max: limits.head_bytes_max,
            target_bytes_max: limits.head_bytes_max / 2,
            headers_max: 100,
        },
        head_timeout: limits.head_timeout,
        body_bytes_max: limits.body_bytes_max,
        body_timeout: limits.body_timeout,
        idle_timeout: limits.idle_timeout,
        topics_per_subscriber_max: limits.topics_per_subscriber_max as usize,
        publish: publish_limits(config),
    }
}

/// What one publish may hold, whichever way it comes.
pub(super) fn publish_limits(config: &Config) -> PublishLimits {
    PublishLimits {
        topic_bytes_max: config.limits.topic_bytes_max,
        data_bytes_max: config.limits.event_bytes_max,
        batch_max: BATCH_MAX,
    }
}

fn cors(config: &Config) -> Cors {
    let security = &config.security;
    match &security.cors {
        CorsPolicy::Any => Cors { origins: Vec::new(), any_localhost: security.dev, any: true },
        CorsPolicy::Listed(origins) => Cors {
            origins: origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
            any_localhost: security.dev,
            any: false,
        },
    }
}

fn hub_limits(config: &Config) -> HubLimits {
    HubLimits {
        topics_max: config.limits.topics_max as usize,
        history_events_max: config.history.events_max as usize,
        history_bytes_max: config.history.bytes_max,
        history_bytes_total_max: config.history.bytes_total_max,
        history_age_max: config.history.age_max,
        replay_events_max: config.history.replay_events_max.map(|max| max as usize),
    }
}
