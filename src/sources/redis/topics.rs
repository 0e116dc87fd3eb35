//! The topics of recently seen channels: their names are checked and allocated once, not for each message.
//!
//! Bounded: when the names take more than [`BYTES_MAX`], all are discarded, and checked again when they reappear.

use std::collections::HashSet;

use crate::event::Topic;
use crate::protocol::publish::PublishLimits;
use crate::sources::redis::payload;

/// Room for the names of as many topics as a server has by default, 40 bytes each.
const BYTES_MAX: usize = 8 << 20;
/// What a name costs in addition to its bytes.
const OVERHEAD_BYTES: usize = 40;

/// Topics by name.
#[derive(Debug, Default)]
pub(super) struct Topics {
    known: HashSet<Topic>,
    bytes: usize,
}

impl Topics {
    /// The topic with the channel's name, or why the name is not a valid topic.
    pub(super) fn get(&mut self, channel: &[u8], limits: &PublishLimits) -> Result<Topic, String> {
        let name = std::str::from_utf8(channel).ok();
        if let Some(topic) = name.and_then(|name| self.known.get(name)) {
            return Ok(topic.clone());
        }
        let topic = payload::parse_topic(channel, limits)?;
        self.bytes += channel.len() + OVERHEAD_BYTES;
        if self.bytes > BYTES_MAX {
            self.known = HashSet::new();
            self.bytes = channel.len() + OVERHEAD_BYTES;
        }
        self.known.insert(topic.clone());
        Ok(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 1024, data_bytes_max: 1, batch_max: 1 };

    #[test]
    fn a_name_is_allocated_once_and_not_too_many_are_kept() {
        let mut topics = Topics::default();
        let get = |topics: &mut Topics, name: &str| topics.get(name.as_bytes(), &LIMITS).unwrap();
        let first = get(&mut topics, "a");
        assert_eq!(get(&mut topics, "a").as_str().as_ptr(), first.as_str().as_ptr());
        for number in 0..20_000 {
            let name = format!("{number:01000}");
            assert_eq!(get(&mut topics, &name).as_str(), name);
            let bytes: usize = topics.known.iter().map(|topic| topic.as_str().len() + OVERHEAD_BYTES).sum();
            assert!(bytes == topics.bytes && bytes <= BYTES_MAX || number % 1000 != 0, "{bytes}");
        }
        assert!(topics.get(b"\xff", &LIMITS).is_err() && topics.get(b"", &LIMITS).is_err());
    }
}
