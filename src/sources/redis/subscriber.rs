//! The subscriber: one connection at a time, subscribed to everything or counted as down.
//!
//! Messages are read through `PubSub::get_message` only: every other way to read loses a message after a timeout. The
//! confirmations of a new connection are the exception, since `PubSub::subscribe` takes a refusal for an answer; there
//! a timeout ends the connection, so nothing can be lost to it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Connection, Msg, PubSub, Value};

use crate::observe::log_limit::{INTERVAL, LogLimit};
use crate::redis_address::is_login_refused;
use crate::sources::channel::{Control, PublishRefusal, Refusal, SourceStatus};
use crate::sources::redis::RedisSettings;
use crate::sources::redis::backoff::Backoff;
use crate::sources::redis::bus;
use crate::sources::redis::copies::AwaitedCopies;
use crate::sources::redis::echo::Echoes;
use crate::sources::redis::payload::{self, Refused};
use crate::sources::redis::subscriptions::{Delivery, Subscriptions};
use crate::sources::sequencer::Sequencer;
use crate::sources::thread::Stop;
use crate::sources::throttle::LogThrottle;

/// How long a read waits before it looks whether to stop or to ping.
const READ_WAIT: Duration = Duration::from_millis(100);
/// A session that lasted this long was a good one: the next attempt starts without patience again.
const STEADY: Duration = Duration::from_secs(1);
/// What the log says of a message that is no event.
const REFUSED: &str = "a message from Redis was refused";

/// The state that outlives a session.
pub(super) struct Subscriber {
    settings: Arc<RedisSettings>,
    subscriptions: Subscriptions,
    sequencer: Arc<Sequencer>,
    status: Arc<SourceStatus>,
    echoes: Arc<Echoes>,
    copies: AwaitedCopies,
    backoff: Backoff,
    /// Sessions so far.
    sessions: u64,
    lost_log: LogThrottle,
    /// Anybody who may publish can cause these.
    refused_log: LogLimit,
    /// What the limit's time is told from.
    started_at: Instant,
}

/// How a session ended.
enum End {
    Stopped,
    Lost(String),
}

impl Subscriber {
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        sequencer: Arc<Sequencer>,
        status: Arc<SourceStatus>,
        echoes: Arc<Echoes>,
    ) -> Subscriber {
        Subscriber {
            subscriptions: Subscriptions::new(&settings.bus, &settings.channels, &settings.patterns),
            backoff: Backoff::new(settings.timing.backoff),
            settings,
            sequencer,
            status,
            echoes,
            copies: AwaitedCopies::default(),
            sessions: 0,
            lost_log: LogThrottle::default(),
            refused_log: LogLimit::default(),
            started_at: Instant::now(),
        }
    }

    /// One session after the other until asked to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        // After a panic, the session that it ended still counts as live.
        self.echoes.end();
        loop {
            let end = match self.connect() {
                Ok((mut connection, early)) => self.session(&mut connection, early, stop),
                Err(error) => End::Lost(error),
            };
            let End::Lost(error) = end else { break };
            self.status.set_down(&*error);
            let delay = self.backoff.next_delay(getrandom::u64().unwrap_or_default());
            if let Some(swallowed) = self.lost_log.permit(Instant::now()) {
                let address = &self.settings.address;
                tracing::warn!(%address, error, swallowed, "not subscribed to Redis; trying again");
            }
            if stop.wait(delay) {
                break;
            }
        }
        self.echoes.end();
        self.status.set_down("stopped");
    }

    /// A connection on which every subscription is confirmed, and the messages that came before the last one was.
    fn connect(&self) -> Result<(Connection, Vec<Msg>), String> {
        let RedisSettings { address, timing, .. } = &*self.settings;
        let explain = |error| address.explain(&error);
        let mut connection = address.connect(timing.connect_timeout, timing.reply_timeout).map_err(explain)?;
        let mut pipeline = redis::pipe();
        for (command, name) in self.subscriptions.commands() {
            pipeline.cmd(command).arg(name);
        }
        connection.send_packed_command(&pipeline.get_packed_pipeline()).map_err(explain)?;
        let mut early = Vec::new();
        for (command, name) in self.subscriptions.commands() {
            loop {
                let reply = connection.recv_response().map_err(explain)?;
                if let Value::ServerError(_) = reply {
                    return Err(match reply.extract_error().err() {
                        Some(error) if is_login_refused(&error) => explain(error),
                        error => format!("it refuses {command} {name}: {}", error.map(explain).unwrap_or_default()),
                    });
                }
                // One confirmation per command, in order; a message of what is confirmed already may come between.
                match Msg::from_owned_value(reply) {
                    Some(message) => early.push(message),
                    None => break,
                }
            }
        }
        Ok((connection, early))
    }

    /// Reads until the connection ends or nothing is heard of it for too long.
    fn session(&mut self, connection: &mut Connection, early: Vec<Msg>, stop: &Stop) -> End {
        let mut messages = connection.as_pubsub();
        self.begin();
        let began = Instant::now();
        for message in early {
            self.deliver(&message);
        }
        let end = self.read(&mut messages, stop);
        self.echoes.end();
        if began.elapsed() >= STEADY {
            self.backoff.reset();
        }
        // The drop unsubscribes and waits for the answer of a connection that may have none to give.
        let _ = messages.set_read_timeout(Some(Duration::from_millis(1)));
        end
    }

    /// Everything is subscribed: whatever was missed was missed before this point.
    fn begin(&mut self) {
        self.sessions += 1;
        if self.sessions > 1 {
            self.sequencer.announce_loss();
            self.status.count_reconnect();
        }
        self.copies = AwaitedCopies::default();
        self.echoes.begin(NonZeroU64::new(self.sessions).expect("just counted"));
        self.status.set_up();
        self.lost_log.reset();
        tracing::info!(address = %self.settings.address, session = self.sessions, "subscribed to Redis");
    }

    fn read(&mut self, messages: &mut PubSub<'_>, stop: &Stop) -> End {
        let ping_interval = self.settings.timing.ping_interval;
        let read_wait = READ_WAIT.min(ping_interval);
        let mut heard = Instant::now();
        let mut wait = messages.set_read_timeout(Some(read_wait));
        while !stop.is_asked() {
            self.tell_left_out();
            match wait.and_then(|()| messages.get_message()) {
                Ok(message) => {
                    self.deliver(&message);
                    heard = Instant::now();
                    wait = Ok(());
                }
                Err(error) if error.is_timeout() => {
                    wait = Ok(());
                    if heard.elapsed() >= ping_interval {
                        if let Err(error) = self.ping(messages) {
                            return End::Lost(error);
                        }
                        wait = messages.set_read_timeout(Some(read_wait));
                        heard = Instant::now();
                    }
                }
                Err(error) => return End::Lost(self.settings.address.explain(&error)),
            }
        }
        End::Stopped
    }

    /// Only after a silence, so that no backlog of messages stands before the answer.
    fn ping(&self, messages: &mut PubSub<'_>) -> Result<(), String> {
        let reply_timeout = self.settings.timing.reply_timeout;
        let reply = messages.set_read_timeout(Some(reply_timeout)).and_then(|()| messages.ping::<Value>());
        // An error that the server sends (an ACL without PING) is an answer too: it lives. After any other the
        // connection is useless, since a late answer would swallow a message.
        reply.map(drop).map_err(|error| format!("ping: {}", self.settings.address.explain(&error)))
    }

    fn deliver(&mut self, message: &Msg) {
        self.status.count_received();
        // A name is bytes to Redis, and the crate's text of it would hide what is not UTF-8.
        let channel: Vec<u8> = message.get_channel().unwrap_or_default();
        let pattern: Option<Vec<u8>> = message.get_pattern().unwrap_or_default();
        let (bytes, limits) = (message.get_payload_bytes(), &self.settings.limits);
        let delivery = self.subscriptions.delivery(pattern.as_deref(), &channel);
        let events = match delivery {
            Delivery::Again => return self.status.count_refused(Refusal::Overlapping),
            Delivery::Bus => bus::parse(bytes, limits).map(|message| {
                self.copies = AwaitedCopies::of(&message, self.settings.payload);
                // What this node was asked itself it does already.
                if let Some(disconnect) = message.disconnect.filter(|_| !self.echoes.expects(bytes)) {
                    self.sequencer.control(&Control::Disconnect(Arc::new(disconnect)));
                }
                message.events
            }),
            Delivery::First if self.copies.take(&channel, bytes) => {
                return self.status.count_refused(Refusal::OwnCopy);
            }
            Delivery::First => payload::parse(self.settings.payload, &channel, bytes, limits),
        };
        match &events {
            // A full channel is the sequencer's to announce.
            Ok(events) => events.iter().for_each(|event| _ = self.sequencer.publish(event)),
            Err(refused) => self.refuse(&channel, refused),
        }
        // Behind the events, so that who is told Ok is told the truth.
        if let (Delivery::Bus, Some(answer)) = (delivery, self.echoes.take(bytes)) {
            answer.give(events.map(drop).map_err(|_| PublishRefusal::BrokerDown));
        }
    }

    fn refuse(&mut self, channel: &[u8], Refused { refusal, topics, reason }: &Refused) {
        self.status.count_refused(*refusal);
        topics.iter().for_each(|topic| self.sequencer.announce_refused(topic));
        if self.refused_log.admit(self.started_at.elapsed()) {
            let channel = String::from_utf8_lossy(channel);
            tracing::warn!(?channel, reason, "{REFUSED}");
        }
    }

    fn tell_left_out(&mut self) {
        if let Some(count) = self.refused_log.left_out(self.started_at.elapsed()) {
            tracing::warn!("{count} more like this in the last {} s: {REFUSED}", INTERVAL.as_secs());
        }
    }
}
