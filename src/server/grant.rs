//! What a publisher may publish to.

use crate::auth::Patterns;
use crate::event::Topic;

#[derive(Debug)]
pub(super) enum PublishGrant {
    Everything,
    Topics(Patterns),
}

impl PublishGrant {
    pub(super) fn covers(&self, topic: &Topic) -> bool {
        match self {
            PublishGrant::Everything => true,
            PublishGrant::Topics(patterns) => patterns.cover(topic.as_str()),
        }
    }
}
