//! The publisher: appends what clients publish, on its own connection and thread. All waiting publishes are appended
//! together, so that a distant engine costs one round trip for many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select_biased, unbounded};

use crate::event::Event;
use crate::protocol::disconnect::Disconnect;
use crate::sources::answer::{Answer, Charge, Load};
use crate::sources::bus::{BusSettings, Content, Engine, Receipt, TOGETHER_BYTES_MAX, TOGETHER_MAX};
use crate::sources::channel::{Accepted, Outlet, PassedOn, Publish, PublishRefusal, Published, SourceStatus, Ticket};
use crate::sources::copying::Copies;
use crate::sources::thread::Stop;
use crate::sources::throttle::LogThrottle;

/// How often the engine may rest while nothing is published.
const REST_INTERVAL: Duration = Duration::from_secs(1);

/// Access to the bus for the clients of one loop.
#[derive(Clone)]
pub struct BusPublisher {
    settings: Arc<BusSettings>,
    status: Arc<SourceStatus>,
    load: Arc<Load>,
    jobs: Sender<Job>,
    outlet: Outlet,
}

/// One publish that waits for its turn.
pub struct Job {
    contents: Vec<Content>,
    bytes: usize,
    answer: Answer,
}

impl BusPublisher {
    /// A publisher, and where its jobs come out for the [`Appender`].
    pub fn new(settings: Arc<BusSettings>, status: Arc<SourceStatus>, outlet: Outlet) -> (BusPublisher, Receiver<Job>) {
        // Unbounded: the load is the bound.
        let (jobs, receiver) = unbounded();
        (BusPublisher { settings, status, load: Arc::default(), jobs, outlet }, receiver)
    }

    /// Access for the clients of another loop.
    #[must_use]
    pub fn for_loop(&self, outlet: Outlet) -> BusPublisher {
        BusPublisher { outlet, ..self.clone() }
    }

    fn enqueue(&self, contents: Vec<Content>, ticket: Ticket) -> Result<(), PublishRefusal> {
        let bytes = contents.iter().map(Content::bytes).sum();
        if !self.status.is_up() {
            return Err(PublishRefusal::BrokerDown);
        }
        let charge = Charge::take(&self.load, self.settings.queue, bytes).ok_or(PublishRefusal::Busy)?;
        let answer = Answer::new(self.outlet.clone(), ticket, Some(charge));
        self.jobs.send(Job { contents, bytes, answer }).map_err(|refused| {
            refused.into_inner().answer.forget();
            PublishRefusal::BrokerDown
        })
    }
}

impl Publish for BusPublisher {
    fn publish(&self, events: Vec<Event>, ticket: Ticket) -> Result<Accepted, PublishRefusal> {
        if !events.iter().all(|event| self.settings.bounds.admits(event)) {
            let bounds = self.settings.bounds.get();
            return Err(PublishRefusal::TooLarge(bounds.topic_bytes_max, bounds.data_bytes_max));
        }
        self.enqueue(events.into_iter().map(Content::Event).collect(), ticket)?;
        Ok(Accepted::Later(Vec::new()))
    }

    fn fault(&self) -> Option<String> {
        self.status.error()
    }

    fn pass_on(&self, disconnect: &Disconnect, ticket: Ticket) -> Result<PassedOn, PublishRefusal> {
        let content = Content::Disconnect(disconnect.clone(), self.settings.node.clone());
        self.enqueue(vec![content], ticket).map(|()| PassedOn::Later)
    }
}

/// Appends jobs: the thread's state.
pub struct Appender {
    engine: Box<dyn Engine>,
    jobs: Receiver<Job>,
    status: Arc<SourceStatus>,
    copies: Copies,
    log: LogThrottle,
}

impl Appender {
    /// Appends what comes out of `jobs`.
    pub fn new(engine: Box<dyn Engine>, jobs: Receiver<Job>, status: Arc<SourceStatus>) -> Appender {
        Appender { engine, jobs, status, copies: None, log: LogThrottle::default() }
    }

    /// Copies each new event, once it is appended.
    pub(super) fn with_copies(mut self, copies: Copies) -> Appender {
        self.copies = copies;
        self
    }

    /// Appends until asked to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        loop {
            select_biased! {
                recv(stop.receiver()) -> _ => break,
                recv(self.jobs) -> job => match job {
                    Ok(job) => self.append(job),
                    Err(_) => break,
                },
                default(REST_INTERVAL) => self.engine.rest(),
            }
        }
        // Dropping the waiting jobs refuses them.
        self.jobs.try_iter().for_each(drop);
    }

    /// Appends a job, and the jobs waiting behind it up to the bounds.
    pub fn append(&mut self, first: Job) {
        let mut bytes = first.bytes;
        let mut contents = first.contents;
        let mut answers = vec![(first.answer, contents.len())];
        while contents.len() < TOGETHER_MAX && bytes < TOGETHER_BYTES_MAX {
            let Ok(job) = self.jobs.try_recv() else { break };
            bytes += job.bytes;
            answers.push((job.answer, job.contents.len()));
            contents.extend(job.contents);
        }
        match self.engine.append(&contents) {
            Ok(receipts) => {
                let duplicates = receipts.iter().filter(|receipt| receipt.is_duplicate).count() as u64;
                let new = receipts.len() as u64 - duplicates;
                self.status.bus().inspect(|figures| figures.count_appended(new, duplicates));
                let mut appended = std::iter::zip(contents, receipts);
                for (answer, count) in answers {
                    answer.give(Ok(published(appended.by_ref().take(count), &self.copies)));
                }
            }
            // Dropping the answers refuses the publishes: the engine may have them, so clients repeat under their ids.
            Err(error) => {
                self.status.bus().inspect(|figures| figures.count_failed(contents.len() as u64));
                if let Some(swallowed) = self.log.permit(Instant::now()) {
                    tracing::warn!(%error, swallowed, "publishing to the bus failed");
                }
            }
        }
    }
}

/// What a publisher is answered. What is new is copied.
fn published(appended: impl Iterator<Item = (Content, Receipt)>, copies: &Copies) -> Published {
    let mut published = Published::default();
    for (content, Receipt { position, is_duplicate }) in appended {
        let Content::Event(event) = content else { continue };
        let id = position.id(event.id.as_ref());
        if is_duplicate {
            published.duplicates.push(id);
            continue;
        }
        if let Some(taker) = copies.as_ref().filter(|taker| taker.wants(&event.topic)) {
            taker.take(event, &id);
        }
        published.ids.push(id);
    }
    published
}
