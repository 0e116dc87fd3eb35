//! What a client may publish to, and look at.

use crate::auth::Patterns;
use crate::event::Topic;

/// What a publisher may publish to.
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

/// Which topics a client may look at.
#[derive(Clone, Debug)]
pub(crate) enum ReadGrant {
    Everything,
    /// The public topics: no token was shown.
    Public(Patterns),
    /// The public topics, and those that a token names.
    Named(Patterns, Patterns),
}

impl ReadGrant {
    pub(crate) fn covers(&self, topic: &str) -> bool {
        match self {
            ReadGrant::Everything => true,
            ReadGrant::Public(public) => public.cover(topic),
            ReadGrant::Named(public, named) => public.cover(topic) || named.cover(topic),
        }
    }
}
