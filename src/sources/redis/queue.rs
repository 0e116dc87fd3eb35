//! A loop's access to the bus: publishes get ids and are queued within bounds. Never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::event::{Event, RunName, Sequence, join};
use crate::protocol::disconnect::Disconnect;
use crate::sources::answer::{Answer, Charge, Load, QueueLimits};
use crate::sources::channel::{Accepted, Outlet, PassedOn, Publish, PublishRefusal, Ticket};
use crate::sources::copying::{self, DueCopies};
use crate::sources::redis::bus;
use crate::sources::redis::copies::{ChannelCopy, Copies};
use crate::sources::redis::echo::Echoes;

/// Access to the bus for the clients of one loop. Cheap to clone.
#[derive(Clone)]
pub struct RedisPublisher {
    queue: Queue,
    outlet: Outlet,
    /// Where events are copied to beside Redis.
    copies: copying::Copies,
}

impl RedisPublisher {
    pub(super) fn new(queue: Queue, outlet: Outlet, copies: copying::Copies) -> RedisPublisher {
        RedisPublisher { queue, outlet, copies }
    }
}

impl Publish for RedisPublisher {
    fn publish(&self, mut events: Vec<Event>, ticket: Ticket) -> Result<Accepted, PublishRefusal> {
        let Queue { run, named, copies, echoes, .. } = &self.queue;
        if echoes.session().is_none() {
            return Err(PublishRefusal::BrokerDown);
        }
        let next_place = || run.id(Sequence(named.fetch_add(1, Ordering::Relaxed) + 1));
        let mut name = |event: &mut Event| event.id.insert(join(next_place(), event.id.as_ref())).clone();
        let ids = events.iter_mut().map(&mut name).collect();
        let copies = copies.of(&events);
        let message: Arc<[u8]> = bus::write(&events, &copies).into_bytes().into();
        let due = DueCopies::of(&events, &self.copies);
        self.enqueue(message, copies, ticket, due).map(|()| Accepted::Later(ids))
    }

    fn pass_on(&self, disconnect: &Disconnect, ticket: Ticket) -> Result<PassedOn, PublishRefusal> {
        if self.queue.echoes.session().is_none() {
            return Err(PublishRefusal::BrokerDown);
        }
        self.enqueue(disconnect.passed().into_bytes().into(), Vec::new(), ticket, None).map(|()| PassedOn::Later)
    }
}

impl RedisPublisher {
    fn enqueue(
        &self,
        message: Arc<[u8]>,
        copies: Vec<ChannelCopy>,
        ticket: Ticket,
        due: Option<DueCopies>,
    ) -> Result<(), PublishRefusal> {
        let Queue { load, limits, jobs, .. } = &self.queue;
        let bytes = message.len() + copies.iter().map(|copy| copy.payload.len()).sum::<usize>();
        let charge = Charge::take(load, *limits, bytes).ok_or(PublishRefusal::Busy)?;
        let answer = Answer::new(self.outlet.clone(), ticket, Some(charge)).with_copies(due);
        jobs.send(Job { message, copies, bytes, answer }).map_err(|refused| {
            refused.into_inner().answer.forget();
            PublishRefusal::BrokerDown
        })
    }
}

/// The sending end of the queue to Redis.
#[derive(Clone)]
pub(super) struct Queue {
    /// For the ids, which are the same on all nodes. It differs from the sequencer's run: the number in an id is not the
    /// event's place in the order, also on this node.
    run: RunName,
    named: Arc<AtomicU64>,
    load: Arc<Load>,
    limits: QueueLimits,
    copies: Arc<Copies>,
    jobs: Sender<Job>,
    echoes: Arc<Echoes>,
}

impl Queue {
    /// The two ends. `run` must be random, and not the sequencer's.
    pub(super) fn new(
        run: RunName,
        limits: QueueLimits,
        copies: Copies,
        echoes: Arc<Echoes>,
    ) -> (Queue, Receiver<Job>) {
        // Unbounded: the load is the bound, and also counts jobs that have left the channel and are not answered yet.
        let (jobs, receiver) = unbounded();
        let copies = Arc::new(copies);
        (Queue { run, named: Arc::default(), load: Arc::default(), limits, copies, jobs, echoes }, receiver)
    }
}

/// One outgoing bus message.
pub(super) struct Job {
    pub(super) message: Arc<[u8]>,
    /// Sent in the same transaction, or not at all.
    pub(super) copies: Vec<ChannelCopy>,
    /// The bytes of the message and its copies.
    pub(super) bytes: usize,
    pub(super) answer: Answer,
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::event::{EventId, Topic};
    use crate::sources::channel::{ChannelLimits, Message, Published, channel};
    use crate::sources::redis::Payload;

    #[test]
    fn publishes_are_named_and_bounded_until_they_are_answered() {
        let (outlet, inbox) = channel(ChannelLimits::default(), || ());
        let echoes = Arc::new(Echoes::default());
        let limits = QueueLimits { publishes_max: 2, bytes_max: 100 };
        let run = RunName::from_bits(3);
        let copies = Copies::new(&[], |_| Payload::Raw);
        let (queue, jobs) = Queue::new(run, limits, copies, Arc::clone(&echoes));
        let publisher = RedisPublisher::new(queue, outlet, None);
        let event = |bytes| Event::message(Topic::new("t").unwrap(), "x".repeat(bytes));
        let check = |events: Vec<Event>, expected: Result<&[EventId], PublishRefusal>| {
            let expected = expected.map(|ids| Accepted::Later(ids.to_vec()));
            assert_eq!(publisher.publish(events, Ticket(1)), expected);
        };
        let [first, fourth, sixth] = [1, 4, 6].map(|n| run.id(Sequence(n)));
        let own = EventId::new("own").unwrap();
        let third = join(run.id(Sequence(3)), Some(&own));

        check(vec![event(1)], Err(PublishRefusal::BrokerDown));
        echoes.begin(NonZeroU64::MIN);
        check(vec![event(500)], Ok(&[first]));
        check(vec![event(1)], Err(PublishRefusal::Busy));
        drop(jobs.try_recv().unwrap());
        let named = Event { id: Some(own.clone()), ..event(1) };
        check(vec![named, event(1)], Ok(&[third, fourth]));
        check(vec![event(1)], Err(PublishRefusal::Busy));
        let job = jobs.try_recv().unwrap();
        job.answer.give(Ok(Published::default()));
        check(vec![event(1)], Ok(&[sixth]));
        drop(jobs);
        check(vec![event(1)], Err(PublishRefusal::BrokerDown));
        let answers = std::iter::from_fn(|| inbox.next_urgent()).map(|message| match message {
            Message::Published { outcome, .. } => outcome.map(drop),
            other => panic!("{other:?}"),
        });
        let down = Err(PublishRefusal::BrokerDown);
        assert_eq!(answers.collect::<Vec<_>>(), [down, Ok(()), down]);
    }
}
