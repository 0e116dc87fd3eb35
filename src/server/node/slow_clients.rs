//! Whose streams are behind, by address: those with the most streams first. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Addresses that are kept.
const ADDRESSES_MAX: usize = 10;

/// The addresses with the most streams that are behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlowClients {
    streams: usize,
    clients: Vec<SlowClient>,
}

/// The streams of one address that are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowClient {
    /// None: unix sockets.
    pub(crate) address: Option<IpAddr>,
    pub(crate) streams: usize,
    /// The longest time for which one of them has accepted nothing.
    pub(crate) waiting: Duration,
}

impl SlowClients {
    /// From each stream's address and how long it has accepted nothing; and how many streams were not looked at.
    pub(crate) fn of(streams: impl Iterator<Item = (Option<IpAddr>, Duration)>, unseen: usize) -> SlowClients {
        let ones = streams.map(|(address, waiting)| SlowClient { address, streams: 1, waiting });
        SlowClients::sum(ones, unseen)
    }

    /// Adds those of another loop.
    pub(crate) fn add(&mut self, other: &SlowClients) {
        let seen = |of: &SlowClients| of.clients.iter().map(|client| client.streams).sum::<usize>();
        let unseen = self.streams + other.streams - seen(self) - seen(other);
        *self = SlowClients::sum(self.clients.iter().chain(&other.clients).copied(), unseen);
    }

    /// All streams that are behind.
    pub(crate) fn streams(&self) -> usize {
        self.streams
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SlowClient> {
        self.clients.iter()
    }

    fn sum(parts: impl Iterator<Item = SlowClient>, unseen: usize) -> SlowClients {
        let mut by_address = HashMap::<Option<IpAddr>, SlowClient>::new();
        let mut streams = unseen;
        for part in parts {
            streams += part.streams;
            let client =
                by_address.entry(part.address).or_insert(SlowClient { streams: 0, waiting: Duration::ZERO, ..part });
            client.streams += part.streams;
            client.waiting = client.waiting.max(part.waiting);
        }
        let mut clients: Vec<_> = by_address.into_values().collect();
        clients.sort_by_key(|client| (Reverse((client.streams, client.waiting)), client.address));
        clients.truncate(ADDRESSES_MAX);
        SlowClients { streams, clients }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn streams_are_counted_by_address_those_with_the_most_and_that_wait_the_longest_first() {
        let seconds = Duration::from_secs;
        let one = SlowClients::of([(address(1), seconds(3)), (address(2), seconds(1))].into_iter(), 5);
        let mut both = SlowClients::of([(address(1), seconds(2)), (None, seconds(9))].into_iter(), 0);
        both.add(&one);
        let all: Vec<_> = both.iter().map(|client| (client.address, client.streams, client.waiting)).collect();
        assert_eq!(all, [(address(1), 2, seconds(3)), (None, 1, seconds(9)), (address(2), 1, seconds(1))]);
        assert_eq!(both.streams(), 4 + 5, "also those that were not looked at");
    }

    #[test]
    fn only_the_first_are_kept_and_all_are_counted() {
        let streams = |address: IpAddr, count: usize| std::iter::repeat_n((Some(address), Duration::ZERO), count);
        let many = (1..=20).flat_map(|last| streams(IpAddr::from([10, 0, 0, last]), usize::from(last)));
        let mut many = SlowClients::of(many, 0);
        assert_eq!(many.iter().map(|client| client.streams).collect::<Vec<_>>(), (11..=20).rev().collect::<Vec<_>>());
        many.add(&SlowClients::default());
        assert_eq!(many.streams(), (1..=20).sum::<usize>());
    }
}
