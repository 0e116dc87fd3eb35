//! Turns the messages of a session into events for its sink, or into refusals that are announced.
//!
//! Messages of one read form a batch, which the sink hands over at once. An answer to a publisher that must come after
//! the batch's events waits until the batch has gone ([`Intake::flush`]).

use std::sync::Arc;

use crate::observe::clip::clip;
use crate::redis_address::replies::{Message, Reply, TooLong};
use crate::sources::answer::Answer;
use crate::sources::channel::{Control, PublishRefusal, Published, Refusal, SourceStatus};
use crate::sources::payload::{self, Parsed, Refused};
use crate::sources::redis::RedisSettings;
use crate::sources::redis::bus::{self, BusMessage};
use crate::sources::redis::copies::AwaitedCopies;
use crate::sources::redis::echo::Echoes;
use crate::sources::redis::mapping::{Mapped, Mapping};
use crate::sources::redis::sink::Sink;
use crate::sources::redis::subscriptions::{Delivery, Subscriptions};
use crate::sources::refused_log::RefusedLog;

/// The log message for a message that is not an event.
const REFUSED: &str = "a message from Redis was refused";

/// Passes messages on to the sink.
pub(super) struct Intake {
    settings: Arc<RedisSettings>,
    sink: Box<dyn Sink>,
    status: Arc<SourceStatus>,
    echoes: Arc<Echoes>,
    subscriptions: Subscriptions,
    copies: AwaitedCopies,
    mapping: Mapping,
    /// The answers to give when the sink has handed over the events.
    answers: Vec<(Answer, Result<Published, PublishRefusal>)>,
    /// Rate-limited, because every application that may publish to Redis can cause these lines.
    refused_log: RefusedLog,
}

impl Intake {
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        sink: Box<dyn Sink>,
        status: Arc<SourceStatus>,
        echoes: Arc<Echoes>,
    ) -> Intake {
        let (channels, patterns) = settings.subscribed();
        Intake {
            subscriptions: Subscriptions::new(&settings.bus, &channels, &patterns),
            settings,
            sink,
            status,
            echoes,
            copies: AwaitedCopies::default(),
            mapping: Mapping::default(),
            answers: Vec::new(),
            refused_log: RefusedLog::new(REFUSED),
        }
    }

    /// The subscriptions of every session.
    pub(super) fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// Where the events go.
    pub(super) fn sink(&mut self) -> &mut dyn Sink {
        &mut *self.sink
    }

    /// Discards what an earlier session left unfinished: it does not concern the next session.
    pub(super) fn reset(&mut self) {
        self.copies = AwaitedCopies::default();
        self.answers.clear();
    }

    /// Takes a reply; call [`Intake::flush`] after the last one.
    pub(super) fn take(&mut self, reply: Reply<'_>) {
        match reply {
            reply if !self.sink.admits(&reply) => {}
            Reply::Message(message) => self.deliver(&message),
            Reply::TooLong(message) => self.skip(&message),
            // The answer to a ping: it only shows that the connection works.
            Reply::Other(_) => {}
        }
    }

    /// Hands the batch over, then gives the answers that depend on it, so that an Ok is true when it is sent.
    pub(super) fn flush(&mut self) {
        self.sink.flush();
        self.answers.drain(..).for_each(|(answer, outcome)| answer.give(outcome));
    }

    fn deliver(&mut self, &Message { pattern, channel, payload }: &Message<'_>) {
        self.status.count_received();
        match self.subscriptions.delivery(pattern, channel) {
            Delivery::Again => self.status.count_refused(Refusal::Overlapping),
            Delivery::Bus => self.deliver_bus(channel, payload),
            Delivery::First if self.copies.take(channel, payload) => self.status.count_refused(Refusal::OwnCopy),
            Delivery::First => self.deliver_channel(channel, payload),
        }
    }

    fn deliver_channel(&mut self, channel: &[u8], payload: &[u8]) {
        let Mapped { topic, payload: kind } = match self.mapping.get(channel, &self.settings) {
            Ok(mapped) => mapped,
            // An invalid topic can't have subscribers, so there is no gap to announce.
            Err(reason) => {
                let refused = Refused { refusal: Refusal::Malformed, topics: Vec::new(), reason };
                return self.refuse(channel, &refused);
            }
        };
        match payload::parse(kind, &topic, payload, &self.settings.limits) {
            Ok(Parsed::Data(data)) => self.sink.add_data(topic, data),
            Ok(Parsed::Events(events)) => events.iter().for_each(|event| self.sink.add_event(event)),
            Err(refused) => self.refuse(channel, &refused),
        }
    }

    fn deliver_bus(&mut self, channel: &[u8], payload: &[u8]) {
        let parsed = bus::parse(payload, &self.settings.limits);
        let outcome = match &parsed {
            // Its ids were known before.
            Ok(_) => Ok(Published::default()),
            Err(_) => Err(PublishRefusal::BrokerDown),
        };
        match parsed {
            Ok(message) => self.add_bus(message, payload),
            Err(refused) => self.refuse(channel, &refused),
        }
        self.answers.extend(self.echoes.take(payload).map(|answer| (answer, outcome)));
    }

    fn add_bus(&mut self, message: BusMessage, payload: &[u8]) {
        self.copies = AwaitedCopies::of(&message, |channel| self.settings.payload_in(channel));
        message.events.iter().for_each(|event| self.sink.add_passed_on(event));
        // This node already carries out a request that it received itself.
        if let Some(disconnect) = message.disconnect.filter(|_| !self.echoes.expects(payload)) {
            self.sink.control(&Control::Disconnect(Arc::new(disconnect)));
        }
    }

    /// Refuses a message that is longer than the limit for reading.
    fn skip(&mut self, &TooLong { pattern, channel, bytes }: &TooLong<'_>) {
        self.status.count_received();
        let Some(channel) = channel else {
            let topic_bytes_max = self.settings.limits.topic_bytes_max;
            let reason = format!("the channel's name has {bytes} bytes: a topic may have {topic_bytes_max}");
            return self.refuse(&[], &Refused { refusal: Refusal::Malformed, topics: Vec::new(), reason });
        };
        let bytes_max = self.settings.reply_limits().payload_bytes_max;
        let reason = format!("the payload has {bytes} bytes: a message may have {bytes_max}");
        let mut topics = Vec::new();
        match self.subscriptions.delivery(pattern, channel) {
            Delivery::Again => return self.status.count_refused(Refusal::Overlapping),
            // The topics are in the part that was not read.
            Delivery::Bus => self.sink.announce_loss(),
            Delivery::First => topics.extend(self.mapping.get(channel, &self.settings).map(|mapped| mapped.topic)),
        }
        self.copies = AwaitedCopies::default();
        self.refuse(channel, &Refused { refusal: Refusal::TooLarge, topics, reason });
    }

    fn refuse(&mut self, channel: &[u8], Refused { refusal, topics, reason }: &Refused) {
        self.status.count_refused(*refusal);
        topics.iter().for_each(|topic| self.sink.announce_refused(topic));
        if self.refused_log.admit() {
            let channel = String::from_utf8_lossy(channel);
            tracing::warn!(channel = ?clip(&channel), reason = &*clip(reason), "{REFUSED}");
        }
    }

    /// Logs how many refusals the rate limit kept out of the log.
    pub(super) fn log_left_out(&mut self) {
        self.refused_log.log_left_out();
    }
}
