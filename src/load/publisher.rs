//! The publisher: one thread that sends numbered messages at their times, over HTTP or to Redis.
//!
//! Messages are sent at the times of a timetable, however long earlier sends took (an open loop). A late message keeps
//! its intended time as its stamp, so that the delay shows in its latency instead of vanishing. A message is
//! *unconfirmed* when its sending failed, or when Redis had no subscriber for it. It is not sent again, because that
//! could deliver it twice.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use super::clock::Clock;
use super::histogram::Latencies;
use super::publishing::{Outlet, Pace, PublishPlan};
use super::stamp::{Stamp, TestRun, stamped_payload};
use super::tally::Timetable;
use crate::client::endpoint::Endpoint;
use crate::client::explain;
use crate::redis_address::RedisAddress;

/// What was published.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Messages in all; the last one's number.
    pub count: u32,
    /// Messages that may have reached no subscriber.
    pub unconfirmed: Vec<RangeInclusive<u32>>,
    /// Messages whose sending failed.
    pub failures: u64,
    /// Messages for which Redis had no subscriber.
    pub unheard: u64,
    /// From sending to the answer.
    pub publish: Latencies,
    /// From the intended time to sending.
    pub lag: Latencies,
    /// When the first message was sent, in microseconds since 1970.
    pub first_sent_us: Option<u64>,
    /// From the first send to the last answer.
    pub elapsed_us: u64,
    /// The most recent reason for a failure.
    pub last_error: Option<String>,
}

/// A running publisher.
pub struct Publisher {
    thread: JoinHandle<Published>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

/// The deliveries that lockstep waits for.
#[derive(Clone)]
pub struct Audience {
    /// Events delivered so far, over all subscribers.
    pub delivered: Arc<AtomicU64>,
    /// Subscribers that receive each message.
    pub subscribers: u64,
}

impl Audience {
    /// The delivery count to wait for after one more message. The wait for earlier messages is already over.
    fn deliveries_after_next(&self) -> u64 {
        self.delivered.load(Ordering::Acquire) + self.subscribers
    }
}

impl Publisher {
    /// Starts sending, by the clock that the timetable was made with. In lockstep, only that clock is used.
    pub fn start(plan: PublishPlan, run: TestRun, clock: Clock, timetable: Timetable, audience: Audience) -> Publisher {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let mut work = Work {
            pause_until: Instant::now(),
            channel: None,
            clock,
            stop: Arc::clone(&stop),
            sent: Arc::clone(&sent),
            published: Published::default(),
            plan,
            run,
        };
        let thread = std::thread::spawn(move || {
            match work.plan.pace {
                Pace::PerSecond(_) => work.by_timetable(timetable),
                Pace::Lockstep => work.in_lockstep(&audience),
            }
            work.published
        });
        Publisher { thread, stop, sent }
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// True once it has sent all messages.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops it and returns what was published.
    pub fn finish(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

struct Work {
    plan: PublishPlan,
    run: TestRun,
    clock: Clock,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    published: Published,
    channel: Option<Channel>,
    /// The earliest time of a new connection, after one has failed.
    pause_until: Instant,
}

impl Work {
    fn by_timetable(&mut self, timetable: Timetable) {
        // Redis takes many commands in one pipeline anyway.
        let batch_max = match self.plan.outlet {
            Outlet::Redis { .. } => self.plan.batch_max.max(128),
            Outlet::Http { .. } => self.plan.batch_max,
        };
        let mut next = 1;
        while next <= self.plan.count_max && !self.stop.load(Ordering::Relaxed) {
            let now_us = self.clock.now_us();
            let due = timetable.first_after(now_us) - 1;
            if due < next {
                sleep_until(&self.clock, timetable.intended_us(next));
                continue;
            }
            let last = due.min(next.saturating_add(batch_max - 1)).min(self.plan.count_max);
            let stamps = (next..=last).map(|number| Stamp { number, intended_us: timetable.intended_us(number) });
            self.send(&stamps.collect::<Vec<_>>());
            next = last + 1;
        }
    }

    fn in_lockstep(&mut self, audience: &Audience) {
        const PATIENCE: Duration = Duration::from_secs(10);
        let mut number = 1;
        while number <= self.plan.count_max && !self.stop.load(Ordering::Relaxed) {
            let target = audience.deliveries_after_next();
            self.send(&[Stamp { number, intended_us: self.clock.now_us() }]);
            let sent_at = Instant::now();
            while audience.delivered.load(Ordering::Acquire) < target && sent_at.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_micros(20));
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            number += 1;
        }
    }

    fn send(&mut self, stamps: &[Stamp]) {
        let payload = |stamp: &Stamp| stamped_payload(self.run, *stamp, self.plan.payload_bytes);
        let messages: Vec<_> = stamps.iter().map(|stamp| (stamp.number, payload(stamp))).collect();
        let started_us = self.clock.now_us();
        let first_sent_us = *self.published.first_sent_us.get_or_insert(started_us);
        for stamp in stamps {
            self.published.lag.record(started_us.saturating_sub(stamp.intended_us));
        }
        let heard = self.deliver(&messages);
        let answered_us = self.clock.now_us();
        self.published.publish.record(answered_us - started_us);
        self.published.elapsed_us = answered_us - first_sent_us;
        if let Err(error) = &heard {
            self.published.failures += messages.len() as u64;
            // A failure that only comes from the pause after a failure is not reported.
            if self.channel.take().is_some() || Instant::now() >= self.pause_until {
                self.published.last_error = Some(format!("{error:#}"));
                self.pause_until = Instant::now() + Duration::from_millis(100);
            }
        }
        for (index, (number, _)) in messages.iter().enumerate() {
            let is_confirmed = match &heard {
                Ok(heard) => heard.get(index).copied().unwrap_or(true),
                Err(_) => false,
            };
            self.published.unheard += u64::from(heard.is_ok() && !is_confirmed);
            if !is_confirmed {
                self.note_unconfirmed(*number);
            }
        }
        self.published.count = messages.last().map_or(self.published.count, |(number, _)| *number);
        self.sent.store(u64::from(self.published.count), Ordering::Relaxed);
    }

    /// Sends the messages, and returns for each whether it had a subscriber (an empty result: unknown, so yes).
    fn deliver(&mut self, messages: &[(u32, String)]) -> anyhow::Result<Vec<bool>> {
        if self.channel.is_none() {
            ensure!(Instant::now() >= self.pause_until, "waiting to reconnect");
            self.channel = Some(Channel::open(&self.plan.outlet)?);
        }
        match &mut self.channel {
            Some(channel) => channel.send(messages),
            None => Ok(Vec::new()),
        }
    }

    fn note_unconfirmed(&mut self, number: u32) {
        match self.published.unconfirmed.last_mut() {
            Some(range) if *range.end() + 1 == number => *range = *range.start()..=number,
            _ => self.published.unconfirmed.push(number..=number),
        }
    }
}

/// The connection to the server or to Redis.
enum Channel {
    Http { agent: ureq::Agent, endpoint: Endpoint, headers: Vec<(String, String)>, topics: Vec<String> },
    Redis { address: Box<RedisAddress>, connection: Box<redis::Connection>, channels: Vec<String> },
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Channel {
    fn open(outlet: &Outlet) -> anyhow::Result<Channel> {
        match outlet {
            Outlet::Http { endpoint, headers, topics, trust } => {
                let config = ureq::Agent::config_builder()
                    .http_status_as_error(false)
                    .timeout_global(Some(ANSWER_TIMEOUT))
                    .tls_config(trust.for_requests())
                    .build();
                let (endpoint, headers, topics) = (endpoint.clone(), headers.clone(), topics.clone());
                Ok(Channel::Http { agent: endpoint.agent(config), endpoint, headers, topics })
            }
            Outlet::Redis { address, channels } => {
                let connected = address.connect(ANSWER_TIMEOUT, ANSWER_TIMEOUT);
                let connection = connected.map_err(|error| anyhow!(address.failure(&error)))?;
                let (address, channels) = (address.clone(), channels.clone());
                Ok(Channel::Redis { address, connection: Box::new(connection), channels })
            }
        }
    }

    fn send(&mut self, messages: &[(u32, String)]) -> anyhow::Result<Vec<bool>> {
        match self {
            Channel::Http { agent, endpoint, headers, topics } => {
                let mut request = agent.post(endpoint.url.as_str()).header("Content-Type", "application/json");
                for (name, value) in headers {
                    request = request.header(name.as_str(), value.as_str());
                }
                let sent = request.send(http_body(messages, topics));
                let mut response = sent.map_err(|error| anyhow!(explain::failure(&error, endpoint)))?;
                ensure!(response.status().is_success(), explain::problem(&mut response));
                // Reading to the end lets the connection be used again.
                let _ = response.body_mut().read_to_string();
                Ok(Vec::new())
            }
            Channel::Redis { address, connection, channels } => {
                let mut pipeline = redis::pipe();
                for (number, payload) in messages {
                    pipeline.cmd("PUBLISH").arg(in_turn(channels, *number)).arg(payload);
                }
                let receivers: Result<Vec<u64>, _> = pipeline.query(connection);
                let receivers = receivers.map_err(|error| anyhow!(address.failure(&error)))?;
                Ok(receivers.into_iter().map(|receivers| receivers > 0).collect())
            }
        }
    }
}

fn http_body(messages: &[(u32, String)], topics: &[String]) -> String {
    let envelope = |(number, payload): &(u32, String)| {
        // Serializing a string can't fail.
        let topic = serde_json::to_string(&in_turn(topics, *number)).unwrap_or_default();
        format!("{{\"topic\":{topic},\"data\":{payload}}}")
    };
    match messages {
        [(_, payload)] if topics.is_empty() => payload.clone(),
        [message] => envelope(message),
        many => format!("[{}]", many.iter().map(envelope).collect::<Vec<_>>().join(",")),
    }
}

fn in_turn(names: &[String], number: u32) -> String {
    names.get((number as usize - 1) % names.len().max(1)).cloned().unwrap_or_default()
}

/// Sleeps, and spins at the end: a sleep alone would make every message late by the timer's slack.
fn sleep_until(clock: &Clock, wake_us: u64) {
    const SPIN_US: u64 = 120;
    const SLEEP_US_MAX: u64 = 20_000;
    let left_us = wake_us.saturating_sub(clock.now_us());
    if left_us > SPIN_US {
        std::thread::sleep(Duration::from_micros((left_us - SPIN_US).min(SLEEP_US_MAX)));
        return;
    }
    while clock.now_us() < wake_us {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_publisher_waits_once_for_a_delivery_that_never_comes() {
        let audience = Audience { delivered: Arc::default(), subscribers: 10 };
        assert_eq!(audience.deliveries_after_next(), 10);
        audience.delivered.store(9, Ordering::Release); // patience has run out
        assert_eq!(audience.deliveries_after_next(), 19);
    }

    #[test]
    fn bodies_carry_the_payload_as_it_is() {
        let check = |numbers: &[u32], topics: &[&str], expected: &str| {
            let messages: Vec<_> = numbers.iter().map(|n| (*n, format!("{{\"n\":{n}}}"))).collect();
            let topics: Vec<_> = topics.iter().map(ToString::to_string).collect();
            assert_eq!(http_body(&messages, &topics), expected);
        };
        check(&[1], &[], "{\"n\":1}");
        check(&[1], &["a\"b"], "{\"topic\":\"a\\\"b\",\"data\":{\"n\":1}}");
        check(
            &[1, 2, 3],
            &["a", "b"],
            concat!(
                "[{\"topic\":\"a\",\"data\":{\"n\":1}},",
                "{\"topic\":\"b\",\"data\":{\"n\":2}},",
                "{\"topic\":\"a\",\"data\":{\"n\":3}}]"
            ),
        );
    }
}
