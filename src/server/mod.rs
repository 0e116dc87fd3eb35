//! The event loop: one thread, every socket that it owns, one turn after the other. A node has one loop or several, which share
//! numbers and send each other letters (`node`).
//!
//! ```text
//!  wait ─▶ accept ─▶ read (requests) ─▶ take messages (append to logs) ─▶ sweep (streams that may not stay)
//!     ▲                                                                                        │
//!     │                                                                          walk (live delivery, in slices)
//!     │                                                                                        │
//!     └── reap ◀── drain ◀── housekeeping ◀── deadlines (heartbeats, timeouts) ◀── catch up (budgeted) ◀──┘
//! ```
//!
//! Each part owns its state: `transport` the sockets, `streams` what subscribers receive, `api` what requests mean, `node`
//! what all of them read and count. A phase's signature says which parts it may change. Only the turn, in this file, sees
//! all of them.
//!
//! Invariants:
//! - Only the wait blocks, and each phase has a budget, so that the work for one client never delays all others for long.
//! - What a turn leaves undone makes the next wait zero, or short if it waits for time or for readers.
//!
//! Not here: system calls ([`Io`] makes them), who receives what (the hub decides), time and randomness (passed in).

mod allowance;
mod api;
mod backpressure;
mod desk;
mod drain;
mod grant;
mod hosts;
mod intake;
mod jitter;
mod late;
mod node;
pub mod settings;
mod share;
mod shrink;
mod slot_map;
mod streams;
mod transport;
mod wheel;
mod window;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::hub::{Hub, MissedReason};
use crate::io::allocator::free_cached_blocks;
use crate::io::{Io, Token};
use crate::observe::live::Live;
use crate::observe::metrics::{Counters, Labelled, OwnTraffic};
use crate::protocol::disconnect::Disconnect;
use crate::protocol::head::RequestHead;
use crate::protocol::response::Response;
use crate::sources::channel::{Control, FetchPage, GapReason, Inbox, Message, Publish, SourceStatus};
use crate::sources::kafka_figures::KafkaFigures;
use crate::tls::handshake::Failure;
use api::Api;
use api::gather;
pub use api::routes::Route;
use api::statistics::{Statistics, Watched};
use api::waiting::{answer_of_broker, answer_of_silence, answer_of_sweep, ticket_token};
use desk::Desk;
use drain::Drain;
use intake::Intake;
use late::{LateStreams, Verdict};
use node::Node;
use node::letter::{Asker, Letter, Question, Reply};
pub use node::member::Member;
use node::refusal::Refusal;
pub use node::reload::Reloads;
pub use node::supervisor::{Lifecycle, Supervisor};
use settings::Settings;
use streams::Streams;
use streams::sweep::{Sweeps, Swept};
use transport::Transport;
use transport::acceptor::PauseReason;
pub use transport::acceptor::{Entrance, ListenerRole, Reach};
use transport::clients::Client;
pub use transport::connection::CloseReason;
use transport::connection::{Awaited, Connection, Phase};
use transport::deadlines::Due;
use transport::secure::{COMPLETED, TIMED_OUT};

/// How soon to look again at an event that waits for subscribers.
const HOLD_INTERVAL: Duration = Duration::from_millis(5);
/// The longest wait: housekeeping is due then.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// How soon housekeeping continues after a turn that did not finish it.
const HOUSEKEEPING_REST: Duration = Duration::from_millis(5);
/// Letters from other loops in one turn, and the time since the first question after which the rest is left to the next turn:
/// each question may take a page.
const LETTERS_PER_TURN_MAX: usize = 512;
const LETTERS_TIME_MAX: Duration = Duration::from_millis(2);
/// Deadlines in one turn: about 2 ms of heartbeats. After a host was stopped for a while, all of them are due.
const DEADLINES_PER_TURN_MAX: usize = 512;

/// Late streams that start, or are refused, in one turn: a client that returns may begin a replay.
const LATE_STREAMS_PER_TURN_MAX: usize = 256;
/// If this many topics have vanished since the last housekeeping, their memory is worth returning.
const MANY_TOPICS: usize = 1000;

/// What a server is built from.
pub struct Parts {
    /// How it behaves.
    pub settings: Settings,
    /// The topics.
    pub hub: Hub,
    /// What sources send.
    pub inbox: Inbox,
    /// This loop among the loops of the node.
    pub member: Member,
    /// Where clients' events go.
    pub publisher: Arc<dyn Publish + Send + Sync>,
    /// Fetches older events, if there is a durable bus.
    pub fetcher: Option<Arc<dyn FetchPage + Send + Sync>>,
    /// Where the loop's own events go: into this node's order, past every broker.
    pub own_events: Arc<dyn Publish + Send + Sync>,
    /// The sources, for health and metrics.
    pub sources: Vec<Arc<SourceStatus>>,
    /// What this node does with Kafka, if anything.
    pub kafka: Option<Arc<KafkaFigures>>,
    /// Where the loop leaves a few figures for other threads, and finds theirs about the process.
    pub live: Arc<Live>,
    /// Receives the reports that the server serves, lives and leaves, from the node's first loop.
    pub supervisor: Box<dyn Supervisor + Send>,
    /// Where new settings come from while it runs.
    pub reloads: Reloads,
    /// The IO's listeners, in their order.
    pub listeners: Vec<Entrance>,
    /// Seeds what is spread at random: reconnection times and heartbeats.
    pub seed: u64,
}

/// The event loop and everything it owns.
pub struct Server<I: Io> {
    node: Node,
    transport: Transport<I>,
    streams: Streams,
    late: LateStreams,
    api: Api,
    statistics: Statistics,
    hub: Hub,
    intake: Intake,
    sweeps: Sweeps,
    drain: Option<Drain>,
    reloads: Reloads,
    supervisor: Box<dyn Supervisor + Send>,
    next_housekeeping: Duration,
}

impl<I: Io> Server<I> {
    /// Builds a server; it does nothing before its first turn.
    pub fn new(io: I, parts: Parts) -> Server<I> {
        let Parts { settings, mut hub, inbox, member, publisher, fetcher, own_events, sources, .. } = parts;
        let Parts { kafka, live, supervisor, reloads, listeners, seed, .. } = parts;
        let now = io.now();
        let node = Node::new(settings, new_counters(), member, seed, now);
        hub.set_rules(&node.settings.topic_rules);
        hub.share_topic_bound(Arc::clone(&node.common.subscribed_topics));
        Server {
            transport: Transport::new(io, listeners),
            streams: Streams::new(fetcher),
            late: LateStreams::default(),
            api: Api::new(publisher, sources.clone(), kafka, Arc::clone(&live), &node),
            statistics: Statistics::new(own_events, sources, live, &node),
            hub,
            intake: Intake::new(inbox),
            sweeps: Sweeps::default(),
            drain: None,
            reloads,
            supervisor,
            next_housekeeping: now + HOUSEKEEPING_INTERVAL,
            node,
        }
    }

    /// Runs turns until a drain has ended.
    pub fn run(&mut self) -> std::io::Result<()> {
        self.notify(Lifecycle::Serving);
        while self.turn()? {}
        Ok(())
    }

    /// One turn of the loop; false when the server has left.
    pub fn turn(&mut self) -> std::io::Result<bool> {
        let timeout = self.wait_max();
        self.node.now = self.transport.wait(timeout)?;
        // Before any report is built: after the host was stopped, this loop does not hang.
        self.node.member.note_alive(self.node.now);
        self.streams.forms.begin_turn();
        self.transport.take_handshakes(&mut self.node);
        self.transport.accept(&mut self.node);
        self.read();
        self.take_messages();
        self.take_letters();
        self.open_late_streams();
        self.sweep();
        self.deliver();
        self.fire_deadlines();
        self.streams.fire_paces(&mut self.transport, self.node.now);
        self.streams.close_slow(&mut self.transport, &self.hub, &mut self.node);
        if self.node.now >= self.next_housekeeping {
            self.run_housekeeping();
        }
        let stays = self.advance_drain();
        self.reap();
        let took = self.transport.now().saturating_sub(self.node.now);
        self.node.counters.turn_duration.observe(took);
        Ok(stays)
    }

    /// How long the next wait may last: not at all if anything was left undone.
    fn wait_max(&self) -> Duration {
        let has_work = self.hub.is_walking()
            || self.intake.has_work()
            || self.streams.has_work()
            || !self.sweeps.is_empty()
            || self.node.member.has_letters()
            || self.late.has_due(self.hub.head())
            || self.transport.has_work(&self.node);
        if has_work {
            return Duration::ZERO;
        }
        let next_step = self.drain.as_ref().map(Drain::next_step);
        let next = [self.transport.next_deadline(&self.node), self.streams.next_pace(), next_step];
        let next = next.into_iter().flatten().fold(self.next_housekeeping, Duration::min);
        let wait = next.saturating_sub(self.transport.now());
        // A subscriber that the server waits for may stop reading, and no readiness event reports that.
        if self.intake.is_holding() { wait.min(HOLD_INTERVAL) } else { wait }
    }

    // ---- the phases that involve several parts ----

    fn read(&mut self) {
        let Server { transport, node, api, streams, late, sweeps, hub, intake, .. } = self;
        let mut desk = Desk { api, streams, late, sweeps, hub, inbox: &intake.inbox };
        transport.read(&mut desk, node);
    }

    fn take_messages(&mut self) {
        for message in self.intake.take_urgent() {
            match message {
                Message::Published { ticket, outcome } => {
                    let answer = |awaited: &mut Awaited, node: &mut Node| answer_of_broker(awaited, outcome, node);
                    self.answer_waiting(ticket_token(ticket), answer);
                }
                Message::Control(Control::Drain) => self.start_drain(),
                Message::Control(Control::Reload) => self.reload(),
                Message::Control(Control::Disconnect(disconnect)) => {
                    self.disconnect(disconnect, None);
                }
                Message::Page(page) => {
                    let key = page.key;
                    self.hub.add_page(page);
                    self.streams.note_page(key, &mut self.transport);
                }
                Message::Broadcast(_)
                | Message::Gap(_)
                | Message::Epoch(..)
                | Message::Loaded
                | Message::EndOfBus(_) => {
                    debug_assert!(false, "events have a lane of their own");
                }
            }
        }
        self.hub.apply_holds(self.transport.take_hold_changes());
        self.hub.note_unshared(self.streams.forms.take_forgotten());
        self.intake.take_events(&mut self.transport, &mut self.hub, &mut self.node);
    }

    /// What other loops send, up to a turn's worth.
    fn take_letters(&mut self) {
        let mut until = None;
        for _ in 0..LETTERS_PER_TURN_MAX {
            let Some(letter) = self.node.member.next_letter() else { return };
            match letter {
                Letter::Connection(accepted) => self.transport.adopt(accepted, &mut self.node),
                Letter::Ask(asker, question) => {
                    let until = *until.get_or_insert_with(|| self.transport.now() + LETTERS_TIME_MAX);
                    self.reply(asker, question);
                    if self.transport.now() >= until {
                        return;
                    }
                }
                Letter::Reply { from, ticket, question, reply } => {
                    self.note_reply(ticket, from, Some((question, reply)));
                }
                Letter::Disconnected { from, ticket, count } => {
                    self.answer_waiting(ticket, |awaited, _| answer_of_sweep(awaited, from, count));
                }
                Letter::OriginRefused(origin) => self.api.refused_origins.remember(origin),
                Letter::Reloaded => self.note_reloaded(),
                Letter::Left(index) => self.forget_loop(index),
            }
        }
    }

    fn reply(&mut self, asker: Asker, question: Arc<Question>) {
        if let Question::Disconnect(disconnect) = &*question {
            return self.disconnect(Arc::clone(disconnect), Some(asker));
        }
        let Server { transport, node, hub, intake, .. } = self;
        if let Some(reply) = gather::reply(&question, transport, hub, &intake.inbox, node) {
            let from = node.member.index();
            node.reply(asker, Letter::Reply { from, ticket: asker.ticket, question, reply });
        }
    }

    /// Denies and ends what another node or loop was asked to.
    fn disconnect(&mut self, disconnect: Arc<Disconnect>, asker: Option<Asker>) {
        let now_s = self.transport.unix_time().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.api.deny_passed(&disconnect, now_s, &mut self.node);
        self.sweeps.disconnect(disconnect, asker);
    }

    /// Another loop has replied to a request's question, or has ended and replies no more.
    fn note_reply(&mut self, ticket: Token, from: usize, reply: Option<(Arc<Question>, Reply)>) {
        let Some(connection) = self.transport.connection_mut(ticket) else { return };
        let Phase::Publishing(publishing) = &mut connection.phase else { return };
        let Awaited::Inquiry(inquiry) = &mut publishing.answer else { return };
        inquiry.take(from, reply);
        if inquiry.missing.is_empty() {
            self.conclude(ticket);
        }
    }

    /// Answers a request with the replies of other loops that there are.
    fn conclude(&mut self, token: Token) {
        let take = |awaited: &mut Awaited, _: &mut Node| match std::mem::replace(awaited, Awaited::Stream) {
            Awaited::Inquiry(inquiry) => Some(inquiry),
            _ => None,
        };
        self.resume_waiting(token, take, |inquiry, desk, client, head, transport, node| {
            desk.conclude(inquiry, client, head, transport, node);
        });
    }

    /// Another loop has ended: no request waits for it any longer.
    fn forget_loop(&mut self, index: usize) {
        let waiting = |connection: &Connection| matches!(connection.phase, Phase::Publishing(_));
        let slots: Vec<_> = self.transport.slots().filter(|slot| waiting(self.transport.at(*slot))).collect();
        for slot in slots {
            let token = self.transport.token(slot);
            self.answer_waiting(token, |awaited, _| answer_of_sweep(awaited, index, 0));
            self.note_reply(token, index, None);
        }
    }

    /// Opens the streams that waited for what this loop has appended now. A sweep does not visit those that wait: if one
    /// has begun, all are refused. When their clients return, what is in force then decides.
    fn open_late_streams(&mut self) {
        if self.sweeps.take_has_begun() {
            self.late.refuse_all();
        }
        for _ in 0..LATE_STREAMS_PER_TURN_MAX {
            match self.late.next_due(self.hub.head()) {
                None => return,
                Some(Verdict::Refuse(token)) => self.refuse_late_stream(token),
                Some(Verdict::Start(token, params)) => {
                    self.with_waiting_stream(token, |desk, client, head, transport, node| {
                        desk.open_stream(client, head, params, transport, node);
                    });
                }
            }
        }
    }

    /// Does something for a stream that waits to start. Its client may have left.
    fn with_waiting_stream(
        &mut self,
        token: Token,
        act: impl FnOnce(&mut Desk<'_>, &Client, &RequestHead, &mut Transport<I>, &mut Node),
    ) {
        self.resume_waiting(
            token,
            |_, _| Some(()),
            |(), desk, client, head, transport, node| act(desk, client, head, transport, node),
        );
    }

    /// Answers a request that waits for a broker or a sweep, if `answer` has a response. Its client may have left.
    fn answer_waiting(&mut self, token: Token, answer: impl FnOnce(&mut Awaited, &mut Node) -> Option<Response>) {
        self.resume_waiting(token, answer, |response, desk, client, head, transport, node| {
            desk.respond(client, head, response, transport, node);
        });
    }

    /// Takes from a waiting request what it waits for, if `take` finds it, and lets the desk go on with it. Its client may have left.
    fn resume_waiting<T>(
        &mut self,
        token: Token,
        take: impl FnOnce(&mut Awaited, &mut Node) -> Option<T>,
        go_on: impl FnOnce(T, &mut Desk<'_>, &Client, &RequestHead, &mut Transport<I>, &mut Node),
    ) {
        let Some(connection) = self.transport.connection_mut(token) else { return };
        let Phase::Publishing(publishing) = &mut connection.phase else { return };
        let Some(taken) = take(&mut publishing.answer, &mut self.node) else { return };
        let head = publishing.head.clone();
        let client = self.transport.client(token.slot, &head, &self.node.settings);
        let Server { transport, node, api, streams, late, sweeps, hub, intake, .. } = self;
        let mut desk = Desk { api, streams, late, sweeps, hub, inbox: &intake.inbox };
        go_on(taken, &mut desk, &client, &head, transport, node);
        transport.resume_after_answer(token, node);
    }

    fn sweep(&mut self) {
        let Server { transport, node, api, streams, sweeps, hub, .. } = self;
        let swept = Swept { streams, denials: &mut api.access.denials, transport, hub, node };
        for (asker, count) in sweeps.sweep(swept) {
            let own = self.node.member.index();
            if asker.index == own {
                self.answer_waiting(asker.ticket, |awaited, _| answer_of_sweep(awaited, own, count));
            } else {
                self.node.reply(asker, Letter::Disconnected { from: own, ticket: asker.ticket, count });
            }
        }
    }

    fn deliver(&mut self) {
        let Server { transport, node, streams, hub, .. } = self;
        let sent_bytes = node.counters.sent_bytes;
        streams.walk(transport, hub, node);
        streams.catch_up(transport, hub, node);
        if node.counters.sent_bytes > sent_bytes {
            self.intake.note_progress();
        }
    }

    /// Acts on deadlines that have passed, one turn's worth of them.
    fn fire_deadlines(&mut self) {
        self.streams.budget_heartbeats(self.hub.is_walking());
        for _ in 0..DEADLINES_PER_TURN_MAX {
            match self.transport.fire_deadline(&mut self.node) {
                None => return,
                Some(Due::Handled) => {}
                Some(Due::Stream(slot)) => {
                    self.streams.act_on_deadline(slot, &mut self.transport, &mut self.hub, &mut self.node);
                }
                Some(Due::Answer(slot)) => self.stop_waiting(self.transport.token(slot)),
            }
        }
    }

    /// What a request waits for has not come in time.
    fn stop_waiting(&mut self, token: Token) {
        let Some(connection) = self.transport.connection_mut(token) else { return };
        let Phase::Publishing(publishing) = &connection.phase else { return };
        match publishing.answer {
            Awaited::Publish(_) | Awaited::Disconnect(_) => {
                self.answer_waiting(token, |awaited, _| Some(answer_of_silence(awaited)));
            }
            Awaited::Inquiry(_) => self.conclude(token),
            Awaited::Stream => {
                self.late.give_up(token);
                self.refuse_late_stream(token);
            }
        }
    }

    fn refuse_late_stream(&mut self, token: Token) {
        self.with_waiting_stream(token, |desk, client, head, transport, node| {
            desk.refuse_stream(client, head, Refusal::PositionUnknown, transport, node);
        });
    }

    // ---- housekeeping, reload, drain ----

    /// Once a second: forgets what is too old, finds slow subscribers, reports, and frees memory.
    fn run_housekeeping(&mut self) {
        let Server { transport, node, statistics, streams, hub, .. } = self;
        self.next_housekeeping = node.now + HOUSEKEEPING_INTERVAL;
        // The supervisor learns nothing while one of the loops hangs.
        if node.member.is_first() && node.common.hanging_loops(node.now) == 0 {
            let alive = Lifecycle::Alive { streams: node.common.streams(), is_leaving: node.is_leaving() };
            self.supervisor.notify(alive);
        }
        node.log_omitted();
        hub.apply_holds(transport.take_hold_changes());
        if !hub.apply_rules() || !hub.age(node.now) {
            self.next_housekeeping = node.now + HOUSEKEEPING_REST;
            return;
        }
        streams.find_slow(transport, hub, node);
        hub.look_for_busiest();
        if hub.take_vanished() >= MANY_TOPICS {
            free_cached_blocks();
        }
        statistics.report(&Watched { transport, hub, inbox: &self.intake.inbox, node });
        transport.shrink();
        streams.shrink(node.now);
    }

    /// Applies the new settings, if there are any. The supervisor receives a report either way.
    fn reload(&mut self) {
        if let Some(settings) = self.reloads.take() {
            self.put_in_force(settings);
            self.node.member.note_put_in_force();
        }
        self.note_reloaded();
    }

    /// A reload is over in a loop; the supervisor learns that once it is over in all.
    fn note_reloaded(&mut self) {
        if self.node.member.note_reloaded() {
            if self.node.member.take_put_in_force() {
                tracing::info!(streams = self.node.common.streams(), "reloaded");
            }
            self.notify(Lifecycle::Reloaded);
        }
    }

    /// Reports to the supervisor, for all loops.
    fn notify(&mut self, event: Lifecycle) {
        if self.node.member.is_first() {
            self.supervisor.notify(event);
        }
    }

    fn put_in_force(&mut self, settings: Settings) {
        let Server { transport, node, api, streams, late, sweeps, hub, .. } = self;
        let Settings { limits: old, topic_rules: old_rules, .. } = std::mem::replace(&mut node.settings, settings);
        let Settings { limits, jwt, topic_rules, .. } = &node.settings;
        if old_rules != *topic_rules {
            hub.set_rules(topic_rules);
        }
        if old.accepts_per_second_max != limits.accepts_per_second_max {
            transport.forget_accept_rate();
        }
        transport.recount_addresses(node);
        if let Some(jwt) = jwt {
            api.access.denials.limit(jwt.denied_tokens_max);
        }
        // Without a key, before and now, no stream needs a token.
        if jwt.is_some() || !streams.credentials.is_empty() || !late.is_empty() {
            sweeps.review();
        }
        streams.forget_preambles();
        api.refused_origins = Default::default();
    }

    /// Begins to leave; a second request makes it leave at once.
    fn start_drain(&mut self) {
        match &mut self.drain {
            Some(drain) => drain.hurry(),
            None => {
                self.drain = Some(Drain::new(&mut self.node));
                self.notify(Lifecycle::Leaving);
                self.statistics.announce_drain(&self.node);
            }
        }
    }

    /// Takes the next step of leaving; false when it was the last.
    fn advance_drain(&mut self) -> bool {
        let Server { drain, streams, transport, hub, node, .. } = self;
        drain.as_mut().is_none_or(|drain| drain.advance(streams, transport, hub, node))
    }

    /// Frees what closed connections still hold. Last in the turn: until then no other connection may take their slots.
    fn reap(&mut self) {
        for slot in self.transport.reap(&self.node) {
            self.streams.remove(slot, &mut self.hub);
        }
    }

    // ---- what tests and the process read ----

    /// True while an event waits for subscribers that keep reading, and not only for a walk.
    pub fn is_holding(&self) -> bool {
        self.intake.is_holding()
    }

    /// How many addresses have connections, as far as they are counted.
    pub fn addresses(&self) -> usize {
        self.node.common.addresses.len()
    }

    /// What the server counted.
    pub fn counters(&self) -> &Counters {
        &self.node.counters
    }

    /// The hub, for inspection.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The outside world, as tests control it.
    pub fn io_mut(&mut self) -> &mut I {
        self.transport.io_mut()
    }

    /// Open connections and, among them, streams.
    pub fn open(&self) -> (usize, usize) {
        (self.transport.connection_count(), self.transport.stream_count())
    }
}

fn new_counters() -> Counters {
    let missed = MissedReason::ALL.map(MissedReason::as_str);
    let lost = GapReason::ALL.map(GapReason::as_str);
    Counters {
        accepted: 0,
        accept_pauses: Labelled::new(PauseReason::ALL.map(PauseReason::as_str)),
        handshakes: Labelled::new([COMPLETED, TIMED_OUT].into_iter().chain(Failure::ALL.map(Failure::as_str))),
        closed: Labelled::new(CloseReason::ALL.map(CloseReason::as_str)),
        streams: 0,
        refused: Labelled::new(Refusal::labels()),
        denied: Labelled::new(["missing_token", "invalid_token", "insufficient_scope", "closed_report"]),
        responses: Labelled::new([]),
        published_http: 0,
        broadcasts: 0,
        dropped: Labelled::new(["duplicate", "topics_exhausted", "local_order_full"]),
        gaps: Labelled::new(missed.into_iter().chain(lost)),
        delivered_events: 0,
        sent_bytes: 0,
        sends: 0,
        short_sends: 0,
        skipped_blocked: 0,
        heartbeats: 0,
        compressed_streams: 0,
        forms: Labelled::new(["alone", "after_others", "stored"]),
        compressed_bytes: Labelled::new(["before", "after"]),
        forms_evicted: 0,
        fetching_streams: 0,
        own: OwnTraffic::default(),
        broadcast_duration: Default::default(),
        delivery_duration: Default::default(),
        turn_duration: Default::default(),
    }
}
