//! What is subscribed to, and which delivery of a message counts. Pure.
//!
//! Redis delivers a message once for the exact channel and once for each pattern that matches. Exactly one delivery is
//! taken: the exact channel's, otherwise that of the first matching pattern in configured order. It does not decide what
//! becomes of the message: the channel's name does (`mapping`). The bus is a separate channel: its messages count only when
//! they come through its own subscription.

use std::collections::HashSet;

use crate::event::glob;

/// What one connection subscribes to.
#[derive(Clone, Debug)]
pub(super) struct Subscriptions {
    bus: String,
    channels: HashSet<String>,
    patterns: Vec<String>,
}

/// What the delivery of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// From the bus.
    Bus,
    /// The delivery that counts.
    First,
    /// The same message also comes, or came, through another subscription.
    Again,
}

impl Subscriptions {
    pub(super) fn new(bus: &str, channels: &[String], patterns: &[String]) -> Subscriptions {
        let channels = channels.iter().filter(|channel| *channel != bus).cloned().collect();
        let mut seen = HashSet::new();
        let patterns = patterns.iter().filter(|pattern| seen.insert(*pattern)).cloned().collect();
        Subscriptions { bus: bus.to_owned(), channels, patterns }
    }

    /// Every subscription as a command and its one argument. The bus is the last: when it announces a copy, the
    /// subscription for that copy is already active, or there is none.
    pub(super) fn commands(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let channels = self.channels.iter().map(|channel| ("SUBSCRIBE", channel.as_str()));
        let patterns = self.patterns.iter().map(|pattern| ("PSUBSCRIBE", pattern.as_str()));
        channels.chain(patterns).chain(std::iter::once(("SUBSCRIBE", self.bus.as_str())))
    }

    /// How to treat a message that came through `pattern`, or through its channel itself.
    pub(super) fn delivery(&self, pattern: Option<&[u8]>, channel: &[u8]) -> Delivery {
        let is_bus = channel == self.bus.as_bytes();
        let Some(pattern) = pattern else { return if is_bus { Delivery::Bus } else { Delivery::First } };
        let is_exact = || std::str::from_utf8(channel).is_ok_and(|channel| self.channels.contains(channel));
        // Redis has decided that its own pattern matches; only the patterns before it are checked here.
        let before = self.patterns.iter().map(String::as_bytes).take_while(|other| *other != pattern);
        match is_bus || is_exact() || before.into_iter().any(|other| glob::matches(other, channel)) {
            true => Delivery::Again,
            false => Delivery::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_copy_counts() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let channels = strings(&["a", "bus", "ä"]);
        let subscriptions = Subscriptions::new("bus", &channels, &strings(&["a*", "*b", "a*", "b??", "ä"]));
        let check = |pattern: Option<&str>, channel: &[u8], expected: Delivery| {
            let delivery = subscriptions.delivery(pattern.map(str::as_bytes), channel);
            assert_eq!(delivery, expected, "{pattern:?} {:?}", String::from_utf8_lossy(channel));
        };
        check(None, b"a", Delivery::First);
        check(Some("a*"), b"a", Delivery::Again);
        check(None, "ä".as_bytes(), Delivery::First);
        check(Some("ä"), "ä".as_bytes(), Delivery::Again);
        check(Some("a*"), b"ab", Delivery::First);
        check(Some("*b"), b"ab", Delivery::Again);
        check(Some("*b"), b"cb", Delivery::First);
        check(Some("*b"), b"\xffb", Delivery::First);
        check(None, b"bus", Delivery::Bus);
        check(Some("b??"), b"bus", Delivery::Again);
        check(Some("b??"), b"bux", Delivery::First);
        assert_eq!(subscriptions.commands().count(), 3 + 4);
        assert_eq!(subscriptions.commands().last(), Some(("SUBSCRIBE", "bus")));
    }
}
