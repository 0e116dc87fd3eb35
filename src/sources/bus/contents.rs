//! What a node has received for the bus, and appends together.

use crate::event::Topic;
use crate::sources::bus::{Content, TOGETHER_BYTES_MAX, TOGETHER_MAX};
use crate::sources::channel::GapReason;

/// The most topics of one gap for refused messages.
const GAP_TOPICS_MAX: usize = 64;

/// Contents in their order, and their bytes.
#[derive(Debug, Default)]
pub struct Contents {
    list: Vec<Content>,
    bytes: usize,
}

impl Contents {
    /// Adds one.
    pub fn push(&mut self, content: Content) {
        self.bytes += content.bytes();
        self.list.push(content);
    }

    /// Adds that a message of a topic was refused; messages that follow each other share a gap.
    pub fn announce_refused(&mut self, topic: &Topic) {
        match self.list.last_mut() {
            Some(Content::Gap { reason: GapReason::Refused, topics }) if topics.contains(topic) => {}
            Some(Content::Gap { reason: GapReason::Refused, topics }) if topics.len() < GAP_TOPICS_MAX => {
                self.bytes += topic.as_str().len();
                topics.push(topic.clone());
            }
            _ => self.push(Content::Gap { reason: GapReason::Refused, topics: vec![topic.clone()] }),
        }
    }

    /// How many.
    #[allow(clippy::len_without_is_empty, reason = "nothing asks for it")]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// About what they take in memory, and on the way.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when they should be appended before more is added.
    pub fn are_full(&self) -> bool {
        self.list.len() >= TOGETHER_MAX || self.bytes >= TOGETHER_BYTES_MAX
    }

    /// Takes all of them out.
    pub fn take(&mut self) -> Vec<Content> {
        self.bytes = 0;
        std::mem::take(&mut self.list)
    }
}
