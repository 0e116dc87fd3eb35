//! Copies: what clients publish over HTTP also goes to topics of Kafka, for applications that read them there.
//!
//! ```text
//!  accepted event ─▶ KafkaCopier (never waits) ─▶ queue, bounded ─▶ this thread ─▶ librdkafka ─▶ brokers
//! ```
//!
//! A copy counts towards the bound of the queue until Kafka has it, or has refused it. librdkafka is asked to keep the
//! order of a topic's events, and repeats a request as one that Kafka recognizes. So each copy is there once, unless
//! it is counted as failed: then it may be there all the same.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select_biased, unbounded};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::statistics::Statistics;

use crate::event::{Event, EventId, EventType, Topic, glob};
use crate::sources::QueueLimits;
use crate::sources::answer::Charge;
use crate::sources::channel::SourceStatus;
use crate::sources::copying::TakeCopies;
use crate::sources::kafka::watch::Watch;
use crate::sources::kafka::{KafkaAddress, text_of};
use crate::sources::kafka_figures::{CopyOutcome, KafkaFigures, ProducerFigures};
use crate::sources::refused_log::RefusedLog;
use crate::sources::thread::{SourceThread, Stop};
use crate::sources::throttle::LogThrottle;

/// How long Kafka has to take a copy.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(300);
/// How often to ask for the brokers' topics: after a right was missing, copies go on then.
const METADATA_INTERVAL: Duration = Duration::from_secs(10);
/// How often to look at reports while copies wait.
const BUSY_INTERVAL: Duration = Duration::from_millis(10);
/// How often otherwise.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);
/// How long a server that stops waits for copies, which is within what it waits for the thread.
const FLUSH_WAIT_MAX: Duration = Duration::from_millis(700);
/// The log message for a copy that found no room.
const DROPPED: &str = "a copy for Kafka was dropped: too many wait";

/// What is copied, and where to.
#[derive(Clone, Debug)]
pub struct CopySettings {
    /// The address of Kafka.
    pub address: KafkaAddress,
    /// A pattern of topics, and the topic of Kafka for them; of several that match, the first one counts.
    pub rules: Vec<(String, String)>,
    /// How large an event may be.
    pub data_bytes_max: usize,
    /// How much may wait until Kafka has it.
    pub queue: QueueLimits,
}

/// Takes copies, for a thread that sends them.
pub struct KafkaCopier {
    settings: Arc<CopySettings>,
    figures: Arc<KafkaFigures>,
    jobs: Sender<Job>,
    dropped_log: Mutex<RefusedLog>,
}

/// A copy that waits.
struct Job {
    /// The topic of Kafka, as an index of the rules.
    rule: usize,
    event: Event,
    id: EventId,
    charge: Charge,
}

/// A copy that librdkafka has: what its report is about.
struct Sent {
    topic: Topic,
    bytes: usize,
    _charge: Charge,
}

impl KafkaCopier {
    fn rule_of(&self, topic: &Topic) -> Option<usize> {
        let matches = |(pattern, _): &(String, String)| glob::matches(pattern.as_bytes(), topic.as_str().as_bytes());
        self.settings.rules.iter().position(matches)
    }

    fn drop_one(&self, figures: &ProducerFigures, topic: &Topic) {
        figures.count(CopyOutcome::Dropped);
        let mut log = self.dropped_log.lock().unwrap_or_else(PoisonError::into_inner);
        log.log_left_out();
        if log.admit() {
            tracing::warn!(%topic, "{DROPPED}");
        }
    }
}

impl TakeCopies for KafkaCopier {
    fn wants(&self, topic: &Topic) -> bool {
        self.rule_of(topic).is_some()
    }

    fn take(&self, event: Event, id: &EventId) {
        let (Some(rule), Some(figures)) = (self.rule_of(&event.topic), &self.figures.producer) else { return };
        let bytes = event.topic.as_str().len() + event.data.len();
        let Some(charge) = Charge::take(&figures.load, self.settings.queue, bytes) else {
            return self.drop_one(figures, &event.topic);
        };
        // Without its thread, the server stops.
        drop(self.jobs.send(Job { rule, event, id: id.clone(), charge }));
    }
}

/// Starts the copies. A Kafka that can't be reached is not an error: copies wait for it.
pub fn spawn_copies(
    settings: CopySettings,
    figures: Arc<KafkaFigures>,
    status: Arc<SourceStatus>,
) -> Result<(SourceThread, KafkaCopier), String> {
    let settings = Arc::new(settings);
    // Unbounded: the load is the bound.
    let (jobs, receiver) = unbounded();
    let mut sending = Sending {
        producer: open(&settings, &figures, &status)?,
        settings: Arc::clone(&settings),
        figures: Arc::clone(&figures),
        status: Arc::clone(&status),
        jobs: receiver,
        broken_log: LogThrottle::default(),
    };
    let failed = move |error| status.set_error(error);
    let thread = SourceThread::spawn("kafka-copy", failed, move |stop| sending.run(stop));
    let thread = thread.map_err(|error| error.to_string())?;
    let dropped_log = Mutex::new(RefusedLog::new(DROPPED));
    Ok((thread, KafkaCopier { settings, figures, jobs, dropped_log }))
}

/// Sends copies: the thread's state.
struct Sending {
    settings: Arc<CopySettings>,
    figures: Arc<KafkaFigures>,
    status: Arc<SourceStatus>,
    jobs: Receiver<Job>,
    producer: BaseProducer<Reports>,
    broken_log: LogThrottle,
}

fn open(
    settings: &CopySettings,
    figures: &Arc<KafkaFigures>,
    status: &Arc<SourceStatus>,
) -> Result<BaseProducer<Reports>, String> {
    let mut config = settings.address.producer_config(settings.data_bytes_max);
    Watch::configure(&mut config);
    config.set("linger.ms", "5");
    config.set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
    config.set("topic.metadata.refresh.interval.ms", METADATA_INTERVAL.as_millis().to_string());
    // The load is the bound, and it is lower.
    config.set("queue.buffering.max.messages", (settings.queue.publishes_max + 1).to_string());
    config.set("queue.buffering.max.kbytes", "2097151");
    let watch = Watch::new("copies", Arc::clone(figures), Arc::clone(status));
    let reports = Reports { watch, log: Mutex::default() };
    config.create_with_context(reports).map_err(|error| text_of(&error))
}

impl Sending {
    fn run(&mut self, stop: &Stop) {
        loop {
            let wait = if self.producer.in_flight_count() > 0 { BUSY_INTERVAL } else { IDLE_INTERVAL };
            select_biased! {
                recv(stop.receiver()) -> _ => break,
                recv(self.jobs) -> job => match job {
                    Ok(job) => self.send(job),
                    Err(_) => break,
                },
                default(wait) => {}
            }
            self.producer.poll(Duration::ZERO);
            self.replace_if_broken();
        }
        while let Ok(job) = self.jobs.try_recv() {
            self.send(job);
        }
        let _ = self.producer.flush(FLUSH_WAIT_MAX); // what is left is counted next
        let (waiting, _) = self.figures.producer.as_ref().map(ProducerFigures::waiting).unwrap_or_default();
        if waiting > 0 {
            tracing::warn!(waiting, "the server stops before Kafka has these copies");
        }
    }

    fn send(&self, Job { rule, event, id, charge }: Job) {
        let mut headers = OwnedHeaders::new();
        let mut add = |key, value: &str| {
            headers = std::mem::take(&mut headers).insert(Header { key, value: Some(value) });
        };
        add("topic", event.topic.as_str());
        add("id", id.as_str());
        event.event_type.iter().for_each(|event_type| add("event", EventType::as_str(event_type)));
        event.retry.iter().for_each(|retry| add("retry", &retry.as_millis().to_string()));
        let sent = Sent { topic: event.topic.clone(), bytes: event.data.len(), _charge: charge };
        let record = BaseRecord::with_opaque_to(&self.settings.rules[rule].1, Box::new(sent));
        let record = record.key(event.topic.as_str()).payload(&event.data).headers(headers);
        if let Err((error, _)) = self.producer.send(record) {
            self.producer.context().note_failed(&error);
        }
    }

    /// A producer that may have lost the order refuses everything that comes later.
    fn replace_if_broken(&mut self) {
        let Some((code, text)) = self.producer.client().fatal_error() else { return };
        if let Some(swallowed) = self.broken_log.permit(Instant::now()) {
            tracing::warn!(%code, text, swallowed, "the producer for copies can't go on, and is replaced");
        }
        match open(&self.settings, &self.figures, &self.status) {
            // The drop of the old one reports what it has as failed.
            Ok(producer) => self.producer = producer,
            Err(error) => self.status.set_error(error),
        }
    }
}

/// Receives the outcomes of copies.
struct Reports {
    watch: Watch,
    log: Mutex<LogThrottle>,
}

impl Reports {
    fn note_failed(&self, error: &KafkaError) {
        self.watch.figures.producer.iter().for_each(|figures| figures.count(CopyOutcome::Failed));
        let error = text_of(error);
        let permit = self.log.lock().unwrap_or_else(PoisonError::into_inner).permit(Instant::now());
        if let Some(swallowed) = permit {
            tracing::warn!(error, swallowed, "a copy did not reach Kafka");
        }
        self.watch.status.set_error(error);
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.watch.log(level, kind, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.watch.stats(statistics);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        match result {
            Ok(_) => {
                let figures = &self.watch.figures;
                figures.producer.iter().for_each(|figures| figures.count(CopyOutcome::Delivered));
                figures.sent.add(&sent.topic, sent.bytes);
                self.watch.status.count_copied(1);
            }
            Err((error, _)) => self.note_failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_count_until_they_are_gone_and_what_finds_no_room_is_dropped() {
        let mut figures = KafkaFigures::default();
        figures.producer = Some(ProducerFigures::new(SourceStatus::new("test")));
        let figures = Arc::new(figures);
        let rules = [("a*", "first"), ("ab", "never"), ("*", "second")];
        let settings = CopySettings {
            address: KafkaAddress { brokers: "h:1".to_owned(), tls: Default::default(), login: None },
            rules: rules.map(|(pattern, name)| (pattern.to_owned(), name.to_owned())).to_vec(),
            data_bytes_max: 10,
            queue: QueueLimits { publishes_max: 2, bytes_max: 10 },
        };
        let (jobs, receiver) = unbounded();
        let dropped_log = Mutex::new(RefusedLog::new(DROPPED));
        let copier = KafkaCopier { settings: settings.into(), figures: Arc::clone(&figures), jobs, dropped_log };
        let take = |topic: &str, data: &str| {
            copier.take(Event::message(Topic::new(topic).unwrap(), data), &EventId::new("i").unwrap());
            let producer = figures.producer.as_ref().unwrap();
            (producer.waiting(), producer.counted(CopyOutcome::Dropped))
        };
        assert_eq!(take("ab", "123"), ((1, 5), 0));
        assert_eq!(take("b", "12345"), ((1, 5), 1), "a byte too much");
        assert_eq!(take("b", "1234"), ((2, 10), 1));
        assert_eq!(take("b", ""), ((2, 10), 2), "one too many");
        let rules: Vec<_> = receiver.try_iter().map(|job| job.rule).collect();
        assert_eq!(rules, [0, 2]);
        assert_eq!(take("b", &"x".repeat(100)), ((1, 101), 2), "alone, it may be larger");
    }
}
