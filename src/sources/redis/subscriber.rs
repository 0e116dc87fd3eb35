//! The thread that receives from Redis, on one connection at a time. Until all subscriptions are confirmed, the source
//! counts as down.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisError, Value};

use crate::redis_address::connection::RedisConnection;
use crate::redis_address::is_login_refused;
use crate::redis_address::replies::{Message, Reply};
use crate::sources::backoff::Backoff;
use crate::sources::channel::SourceStatus;
use crate::sources::redis::RedisSettings;
use crate::sources::redis::echo::Echoes;
use crate::sources::redis::gathering::Gathering;
use crate::sources::redis::intake::Intake;
use crate::sources::redis::role::{self, RoleCheck};
use crate::sources::redis::sink::Sink;
use crate::sources::thread::Stop;
use crate::sources::throttle::LogThrottle;

/// How long a read waits before the thread checks whether to stop or to ping.
const READ_WAIT: Duration = Duration::from_millis(100);
/// How long leaving may take: the end of the process waits for this thread, but not much longer.
const LEAVE_MAX: Duration = Duration::from_millis(700);
/// After a session of at least this length, the backoff starts again at its minimum.
const STEADY: Duration = Duration::from_secs(1);
/// The most bytes kept of messages that arrive before the last subscription is confirmed.
const EARLY_BYTES_MAX: usize = 4 << 20;

/// The state that outlives a session.
pub(super) struct Subscriber {
    settings: Arc<RedisSettings>,
    status: Arc<SourceStatus>,
    echoes: Arc<Echoes>,
    roles: Arc<RoleCheck>,
    intake: Intake,
    backoff: Backoff,
    /// Number of sessions until now.
    sessions: u64,
    lost_log: LogThrottle,
}

/// How a session ended.
enum End {
    Stopped,
    Lost(String),
}

/// The messages that arrived before the last subscription was confirmed.
#[derive(Default)]
struct Early {
    messages: Vec<OwnedMessage>,
    bytes: usize,
    /// Some messages were not kept.
    is_incomplete: bool,
}

struct OwnedMessage {
    pattern: Option<Vec<u8>>,
    channel: Vec<u8>,
    payload: Vec<u8>,
}

impl Subscriber {
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        sink: Box<dyn Sink>,
        status: Arc<SourceStatus>,
        echoes: Arc<Echoes>,
        roles: Arc<RoleCheck>,
    ) -> Subscriber {
        Subscriber {
            intake: Intake::new(Arc::clone(&settings), sink, Arc::clone(&status), Arc::clone(&echoes)),
            backoff: Backoff::new(settings.timing.backoff),
            settings,
            status,
            echoes,
            roles,
            sessions: 0,
            lost_log: LogThrottle::default(),
        }
    }

    /// Runs one session after the other until asked to stop.
    pub(super) fn run(&mut self, stop: &Stop) {
        // After a panic, the interrupted session still counts as live.
        self.echoes.end();
        loop {
            let end = match self.connect() {
                Ok((mut connection, early)) => self.session(&mut connection, &early, stop),
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

    /// Connects to a primary and waits until every subscription is confirmed. Also returns the messages that arrived
    /// before the last confirmation.
    fn connect(&self) -> Result<(RedisConnection, Early), String> {
        let RedisSettings { address, timing, .. } = &*self.settings;
        let explain = |error| address.explain(&error);
        let limits = self.settings.reply_limits();
        let mut connection = address.open(timing.connect_timeout, timing.reply_timeout, limits).map_err(explain)?;
        self.roles.check(address, &mut connection).map_err(|error| error.explain(address))?;
        let mut pipeline = redis::pipe();
        for (command, name) in self.intake.subscriptions().commands() {
            pipeline.cmd(command).arg(name);
        }
        connection.send(&pipeline.get_packed_pipeline()).map_err(explain)?;
        let mut early = Early::default();
        for (command, name) in self.intake.subscriptions().commands() {
            // One confirmation per command, in order; messages of confirmed subscriptions may arrive between them.
            let reply = connection.reply(|message| early.keep(message)).map_err(explain)?;
            match reply.extract_error() {
                Ok(reply) if is_confirmation(&reply) => {}
                Ok(_) => return Err(format!("its answer to {command} is not a confirmation: is it a Redis server?")),
                Err(error) if is_login_refused(&error) => return Err(explain(error)),
                Err(error) => return Err(format!("it refuses {command} {name}: {}", explain(error))),
            }
        }
        Ok((connection, early))
    }

    /// Reads until the connection ends or stays silent for too long.
    fn session(&mut self, connection: &mut RedisConnection, early: &Early, stop: &Stop) -> End {
        let began = Instant::now();
        let session = match self.begin(early, began) {
            Ok(session) => session,
            Err(error) => return End::Lost(error),
        };
        early.messages.iter().for_each(|message| self.intake.take(message.as_reply()));
        self.intake.flush();
        let end = self.read(connection, session, stop);
        match &end {
            End::Lost(error) => self.intake.sink().end(Some(error)),
            End::Stopped => self.leave(connection),
        }
        self.echoes.end();
        if began.elapsed() >= STEADY {
            self.backoff.reset();
        }
        end
    }

    /// All subscriptions are confirmed: events can be missing only before this point.
    fn begin(&mut self, early: &Early, now: Instant) -> Result<NonZeroU64, String> {
        let is_first = self.sessions == 0;
        self.sessions += 1;
        let session = NonZeroU64::new(self.sessions).expect("just counted");
        self.intake.reset();
        self.intake.sink().begin(session, now)?;
        if is_first && early.is_incomplete {
            self.intake.sink().announce_loss();
        }
        if !is_first {
            self.status.count_reconnect();
        }
        self.echoes.begin(session);
        self.status.set_up();
        self.lost_log.reset();
        tracing::info!(address = %self.settings.address, session = self.sessions, "subscribed to Redis");
        Ok(session)
    }

    /// Leaves what this session receives to another node, where nodes share that.
    fn leave(&mut self, connection: &mut RedisConnection) {
        let deadline = Instant::now() + LEAVE_MAX;
        while self.intake.sink().is_leaving() && Instant::now() < deadline {
            let received = connection.receive();
            if received.is_err() || self.take_replies(connection).is_err() {
                break;
            }
        }
        self.intake.sink().end(None);
    }

    fn read(&mut self, connection: &mut RedisConnection, session: NonZeroU64, stop: &Stop) -> End {
        let timing = self.settings.timing;
        if let Err(error) = connection.set_read_timeout(READ_WAIT.min(timing.ping_interval)) {
            return self.lost(&error.into());
        }
        let mut heard_at = Instant::now();
        let mut pinged_at = None;
        let mut gathering = Gathering::default();
        while !stop.is_asked() {
            self.intake.log_left_out();
            if !self.echoes.is_live(session) {
                return End::Lost(role::REPLICA.to_owned());
            }
            if let Err(error) = self.intake.sink().tend(Instant::now()) {
                return End::Lost(error);
            }
            // Silence is measured up to the time before the read: data that came while the process was stopped is read
            // first.
            let now = Instant::now();
            match connection.receive() {
                Ok(true) => {
                    let replies = match self.take_replies(connection) {
                        Ok(replies) => replies,
                        Err(error) => return self.lost(&error),
                    };
                    (heard_at, pinged_at) = (Instant::now(), None);
                    if let Some(pause) = gathering.pause_after(replies, heard_at) {
                        std::thread::sleep(pause);
                    }
                }
                Ok(false) => match pinged_at {
                    Some(pinged_at) if now.duration_since(pinged_at) >= timing.reply_timeout => {
                        let timeout = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
                        return End::Lost(format!("ping: {}", self.settings.address.explain(&timeout)));
                    }
                    None if now.duration_since(heard_at) >= timing.ping_interval => {
                        // Any answer will do, also an error (an ACL without PING): it shows that the connection works.
                        if let Err(error) = connection.send(&redis::cmd("PING").get_packed_command()) {
                            return self.lost(&error);
                        }
                        pinged_at = Some(Instant::now());
                    }
                    _ => {}
                },
                Err(error) => return self.lost(&error),
            }
        }
        End::Stopped
    }

    /// Takes the replies of one read, and returns how many there were.
    fn take_replies(&mut self, connection: &mut RedisConnection) -> Result<u32, RedisError> {
        let mut replies = 0;
        let outcome = loop {
            match connection.next() {
                Ok(Some(reply)) => self.intake.take(reply),
                Ok(None) => break Ok(replies),
                Err(error) => break Err(error),
            }
            replies += 1;
        };
        self.intake.flush();
        outcome
    }

    fn lost(&self, error: &RedisError) -> End {
        End::Lost(self.settings.address.explain(error))
    }
}

impl Early {
    fn keep(&mut self, reply: Reply<'_>) {
        match reply {
            Reply::Message(Message { pattern, channel, payload }) if self.bytes + payload.len() <= EARLY_BYTES_MAX => {
                self.bytes += payload.len() + channel.len() + size_of::<OwnedMessage>();
                let (channel, payload) = (channel.to_owned(), payload.to_owned());
                self.messages.push(OwnedMessage { pattern: pattern.map(<[u8]>::to_owned), channel, payload });
            }
            _ => self.is_incomplete = true,
        }
    }
}

impl OwnedMessage {
    fn as_reply(&self) -> Reply<'_> {
        Reply::Message(Message { pattern: self.pattern.as_deref(), channel: &self.channel, payload: &self.payload })
    }
}

fn is_confirmation(reply: &Value) -> bool {
    let Value::Array(parts) = reply else { return false };
    matches!(parts.first(), Some(Value::BulkString(kind)) if kind == b"subscribe" || kind == b"psubscribe")
}
