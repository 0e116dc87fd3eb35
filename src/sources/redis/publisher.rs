//! The publisher: sends what clients publish to the bus, on its own connection and thread.
//!
//! All waiting messages go out in one pipeline, so that a distant Redis costs one round trip for many. An error answers
//! the message it concerns; every other message is answered when it comes back ([`Echoes`]). No message is sent twice:
//! an error may arrive after Redis has executed the command, and the client decides whether to repeat.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select_biased};
use redis::{Pipeline, RedisResult};

use crate::redis_address::connection::RedisConnection;
use crate::sources::backoff::Backoff;
use crate::sources::channel::SourceStatus;
use crate::sources::redis::RedisSettings;
use crate::sources::redis::copies::ChannelCopy;
use crate::sources::redis::echo::Echoes;
use crate::sources::redis::queue::Job;
use crate::sources::redis::role::{RoleCheck, RoleError};
use crate::sources::thread::Stop;
use crate::sources::throttle::LogThrottle;

/// The most bytes that go out in one pipeline; a message larger than this goes alone.
const PIPELINE_BYTES_MAX: usize = 1 << 20;
/// How often to check for overdue messages.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);

/// The thread's state.
pub(super) struct Publisher {
    settings: Arc<RedisSettings>,
    echoes: Arc<Echoes>,
    status: Arc<SourceStatus>,
    jobs: Receiver<Job>,
    roles: Arc<RoleCheck>,
    /// The connection, and the session in which it was made.
    connection: Option<(RedisConnection, NonZeroU64)>,
    /// When the role was last checked. It is checked at every ping interval, also under load, because RESP2 does not
    /// let the subscribed connection check it.
    asked_at: Instant,
    backoff: Backoff,
    /// The earliest time of the next attempt to connect.
    retry_at: Instant,
    log: LogThrottle,
}

/// A message that was sent.
struct Sent {
    message: Arc<[u8]>,
    copies: usize,
    /// How many replies belong to it.
    replies: usize,
}

impl Publisher {
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        echoes: Arc<Echoes>,
        status: Arc<SourceStatus>,
        roles: Arc<RoleCheck>,
        jobs: Receiver<Job>,
    ) -> Publisher {
        let now = Instant::now();
        Publisher {
            backoff: Backoff::new(settings.timing.backoff),
            settings,
            echoes,
            status,
            jobs,
            roles,
            connection: None,
            asked_at: now,
            retry_at: now,
            log: LogThrottle::default(),
        }
    }

    /// Sends until asked to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        // After a panic it is unknown which replies the connection still expects.
        self.connection = None;
        let ping_interval = self.settings.timing.ping_interval;
        let mut expired_at = Instant::now();
        loop {
            let wait = if self.echoes.is_empty() { ping_interval } else { EXPIRY_INTERVAL.min(ping_interval) };
            select_biased! {
                recv(stop.receiver()) -> _ => break,
                recv(self.jobs) -> job => match job {
                    Ok(job) => self.send(self.collect(job)),
                    Err(_) => break,
                },
                default(wait) => self.connection = self.connection(),
            }
            if expired_at.elapsed() >= EXPIRY_INTERVAL {
                expired_at = Instant::now();
                self.echoes.expire(expired_at);
            }
        }
        self.connection = None;
        // Dropping the waiting jobs refuses them.
        self.jobs.try_iter().for_each(drop);
    }

    /// The job, and the jobs waiting behind it up to the size of one pipeline.
    fn collect(&self, first: Job) -> Vec<Job> {
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while bytes < PIPELINE_BYTES_MAX {
            let Ok(job) = self.jobs.try_recv() else { break };
            bytes += job.bytes;
            batch.push(job);
        }
        batch
    }

    /// Publishes a batch; without a connection the batch is dropped, which refuses it.
    fn send(&mut self, batch: Vec<Job>) {
        let Some((mut connection, session)) = self.connection() else { return };
        let mut pipeline = redis::pipe();
        let mut sent = Vec::with_capacity(batch.len());
        let expires = Instant::now() + self.settings.timing.reply_timeout;
        for Job { message, copies, answer, .. } in batch {
            let replies = write(&mut pipeline, &self.settings.bus, &message, &copies);
            self.echoes.expect(&message, answer, expires);
            sent.push(Sent { message, copies: copies.len(), replies });
        }
        let mut unanswered = sent.iter();
        match self.exchange(&mut connection, &pipeline.get_packed_pipeline(), &mut unanswered) {
            Ok(()) => self.connection = Some((connection, session)),
            Err(error) => {
                // The connection is dropped: its next reply could belong to an older command.
                self.log_failure("publishing", &self.settings.address.explain(&error));
                unanswered.for_each(|sent| drop(self.echoes.take(&sent.message)));
            }
        }
    }

    /// Sends the pipeline and reads the replies for each message. Messages that remain in `messages` did not get all
    /// replies.
    fn exchange<'a>(
        &mut self,
        connection: &mut RedisConnection,
        pipeline: &[u8],
        messages: &mut (impl Iterator<Item = &'a Sent> + Clone),
    ) -> RedisResult<()> {
        connection.send(pipeline)?;
        while let Some(sent) = messages.clone().next() {
            let mut outcome = Ok(());
            for _ in 0..sent.replies {
                // Of several errors the first is the cause; a discarded transaction is its consequence.
                outcome = outcome.and(connection.reply(|_| {})?.extract_error().map(drop));
            }
            messages.next();
            match outcome {
                Ok(()) => self.status.count_copied(sent.copies),
                Err(error) => {
                    self.log_failure("publishing", &self.settings.address.explain(&error));
                    drop(self.echoes.take(&sent.message));
                }
            }
        }
        Ok(())
    }

    /// A connection to a primary, and the session that was live when it was made. Connects if necessary, unless an
    /// attempt failed a moment ago. Checks the role periodically, which also prevents an idle timeout and detects a
    /// lost connection before a client's publish does.
    fn connection(&mut self) -> Option<(RedisConnection, NonZeroU64)> {
        // While the subscriber can't connect, only the subscriber tries and logs.
        let session = self.echoes.session()?;
        // The cause that ended the subscriber's connection has most likely ended this one too, or moved Redis
        // elsewhere.
        let kept = self.connection.take().filter(|(_, made_in)| *made_in == session);
        let is_new = kept.is_none();
        let (mut connection, _) = kept.or_else(|| Some((self.connect()?, session)))?;
        if is_new || self.asked_at.elapsed() >= self.settings.timing.ping_interval {
            self.check_role(&mut connection, session)?;
        }
        Some((connection, session))
    }

    fn connect(&mut self) -> Option<RedisConnection> {
        if Instant::now() < self.retry_at {
            return None;
        }
        let (timing, limits) = (&self.settings.timing, self.settings.reply_limits());
        match self.settings.address.open(timing.connect_timeout, timing.reply_timeout, limits) {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.wait_before_next();
                self.log_failure("connecting", &self.settings.address.explain(&error));
                None
            }
        }
    }

    fn wait_before_next(&mut self) {
        self.retry_at = Instant::now() + self.backoff.next_delay(getrandom::u64().unwrap_or_default());
    }

    /// `None`: the server is not a primary, or the check failed. A server that is not a primary ends the session too.
    fn check_role(&mut self, connection: &mut RedisConnection, session: NonZeroU64) -> Option<()> {
        let outcome = self.roles.check(&self.settings.address, connection);
        self.asked_at = Instant::now();
        let Err(error) = outcome else {
            self.backoff.reset();
            return Some(());
        };
        self.wait_before_next();
        if let RoleError::NotPrimary(_) = error {
            self.echoes.end_session(session);
        }
        self.log_failure("asking for the role", &error.explain(&self.settings.address));
        None
    }

    fn log_failure(&mut self, what: &'static str, error: &str) {
        if let Some(swallowed) = self.log.permit(Instant::now()) {
            let address = &self.settings.address;
            tracing::warn!(%address, error, swallowed, "{what} failed on the connection to the Redis bus");
        }
    }
}

/// Writes a message, and its copies in the same transaction. The bus message is first, because it announces the copies.
/// Returns the number of replies.
fn write(pipeline: &mut Pipeline, bus: &str, message: &[u8], copies: &[ChannelCopy]) -> usize {
    if copies.is_empty() {
        pipeline.cmd("PUBLISH").arg(bus).arg(message);
        return 1;
    }
    pipeline.cmd("MULTI");
    pipeline.cmd("PUBLISH").arg(bus).arg(message);
    for copy in copies {
        pipeline.cmd("PUBLISH").arg(copy.channel.as_str()).arg(&copy.payload);
    }
    pipeline.cmd("EXEC");
    copies.len() + 3
}
