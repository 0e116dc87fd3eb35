//! The state of accepting: which listeners have more, and why they pause.

use std::time::Duration;

use crate::io::{ListenerIndex, Token};

/// A listener's part in the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Everything, within the limits.
    Public,
    /// Within the limits, and each request is sent to the listener with TLS.
    Redirect,
    /// Health, metrics and debug view, outside the limits of streams and during a drain.
    Admin,
}

/// Which clients can reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Programs on this host, and browsers on it, whatever page they show.
    Loopback,
    /// Processes that may open the file: usually a proxy.
    UnixSocket,
    /// Every host on a network.
    Network,
}

/// One listener, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// Its part.
    pub role: ListenerRole,
    /// Who can reach it.
    pub reach: Reach,
}

/// Why accepting pauses. The connections wait in the kernel's backlog meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseReason {
    /// No descriptor is left.
    Descriptors,
    /// Every slot is taken, including the reserve for refusals and health checks.
    Slots,
    /// The maximum for this second has been accepted.
    Rate,
    /// A listener can't accept: the kernel, a firewall or a security module refuses.
    Error,
    /// As many TLS handshakes are under way as may be.
    Handshakes,
}

impl PauseReason {
    pub(crate) const ALL: [PauseReason; 5] =
        [PauseReason::Descriptors, PauseReason::Slots, PauseReason::Rate, PauseReason::Error, PauseReason::Handshakes];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            PauseReason::Descriptors => "descriptors",
            PauseReason::Slots => "slots",
            PauseReason::Rate => "rate",
            PauseReason::Error => "error",
            PauseReason::Handshakes => "handshakes",
        }
    }
}

/// Which listeners have more, and why they pause.
pub(crate) struct Acceptor {
    pub(super) listeners: Vec<Listening>,
    /// The listeners in the order in which they are served, operators' first: they get what is short.
    pub(super) turns: Vec<usize>,
    /// No descriptor is left until this time, when the server tries again.
    pub(super) exhausted_until: Option<Duration>,
    /// The connection that got the spare descriptor last.
    pub(super) on_spare: Option<Token>,
    /// Why accepting has paused since connections began to wait: until none waits, each reason is one pause.
    pub(super) paused_for: Vec<PauseReason>,
    /// The rate of accepts is used up until this time.
    pub(super) over_rate_until: Option<Duration>,
    /// It was until now: the next accepted connection had to wait for it.
    pub(super) was_over_rate: bool,
    /// Every place is taken, and another loop may give one back, which nothing reports.
    pub(super) lacks_place: bool,
}

pub(super) struct Listening {
    pub(super) role: ListenerRole,
    pub(super) reach: Reach,
    pub(super) has_more: bool,
    /// It could not accept, or has to wait for handshakes; the server tries again at this time.
    pub(super) paused_until: Option<Duration>,
}

impl Listening {
    pub(super) fn is_pausing(&self, now: Duration) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }
}

impl Acceptor {
    pub(crate) fn new(entrances: Vec<Entrance>) -> Acceptor {
        // No readiness was reported for clients that connected before the first wait: start by trying.
        let mut turns: Vec<_> = (0..entrances.len()).collect();
        turns.sort_by_key(|index| entrances[*index].role != ListenerRole::Admin);
        let listening = |Entrance { role, reach }| Listening { role, reach, has_more: true, paused_until: None };
        let listeners = entrances.into_iter().map(listening).collect();
        Acceptor {
            listeners,
            turns,
            exhausted_until: None,
            on_spare: None,
            paused_for: Vec::new(),
            over_rate_until: None,
            was_over_rate: false,
            lacks_place: false,
        }
    }

    /// The rate has changed: tries again.
    pub(crate) fn forget_rate(&mut self) {
        self.over_rate_until = None;
        self.was_over_rate = false;
    }

    /// True when clients other than programs on this host reach a public listener.
    pub(crate) fn is_exposed(&self) -> bool {
        let is_exposed = |it: &Listening| it.role == ListenerRole::Public && it.reach != Reach::Loopback;
        self.listeners.iter().any(is_exposed)
    }

    pub(crate) fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    pub(crate) fn note_acceptable(&mut self, listener: ListenerIndex) {
        if let Some(listening) = self.listeners.get_mut(listener.0) {
            listening.has_more = true;
        }
    }

    /// Returns the listeners of clients, to be closed, and marks that they have no more.
    pub(crate) fn close_public(&mut self) -> Vec<ListenerIndex> {
        let is_public = |(_, listening): &(usize, &mut Listening)| listening.role != ListenerRole::Admin;
        let public = self.listeners.iter_mut().enumerate().filter(is_public);
        public
            .map(|(index, listening)| {
                listening.has_more = false;
                ListenerIndex(index)
            })
            .collect()
    }

    /// True when the server would try an accept now.
    pub(crate) fn is_due(&self, now: Duration, has_slot: bool) -> bool {
        let exhausted = self.exhausted_until.is_some_and(|until| until > now);
        let waits = |listening: &Listening| {
            listening.has_more && !listening.is_pausing(now) && !self.is_paused_for(listening.role, has_slot)
        };
        !exhausted && self.listeners.iter().any(waits)
    }

    /// When to try again, if that depends on time.
    pub(crate) fn next_try(&self) -> Option<Duration> {
        // Rounded up: at a time slightly too early, the allowance would be just short, again and again.
        let rate = self.over_rate_until.map(|until| until + Duration::from_millis(1));
        let pausing = self.listeners.iter().filter_map(|listening| listening.paused_until);
        self.exhausted_until.into_iter().chain(rate).chain(pausing).min()
    }

    /// An accept reported that no connection waits. What holds up the next connections is another pause.
    pub(super) fn note_accept_queue_is_empty(&mut self, listener: ListenerIndex) {
        self.listeners[listener.0].has_more = false;
        if self.listeners.iter().all(|listening| !listening.has_more) {
            self.paused_for.clear();
        }
    }

    fn is_paused_for(&self, role: ListenerRole, has_slot: bool) -> bool {
        role != ListenerRole::Admin && (self.over_rate_until.is_some() || !has_slot)
    }
}
