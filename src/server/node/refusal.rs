//! Refusals: every limit that refuses something, its name in metrics, and its answer.

use crate::protocol::RequestError;
use crate::protocol::publish::PublishError;

/// Why something is refused. Each has its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The maximum number of streams is open.
    StreamLimit,
    /// The maximum number of connections from one address is open.
    AddressLimit,
    /// The last descriptor is in use for this refusal.
    Descriptors,
    /// The maximum number of topics has subscribers.
    TopicLimit,
    /// The hub does not know yet where the stream starts.
    PositionUnknown,
    /// The server is leaving.
    Draining,
    /// One stream names more topics than it may.
    TopicsPerSubscriber,
    /// A topic's name is too long.
    TopicBytes,
    /// A token has published its maximum for a second.
    PublishRate,
    /// More requests arrived ahead of their answers than allowed.
    Pipelined,
    /// The maximum number of answer bytes waits for clients to read them.
    AnswerBytes,
    /// Only trusted proxies may connect, and this peer is not one.
    UntrustedPeer,
    /// The maximum number of tokens is denied.
    DeniedTokens,
    /// A request's head did not arrive in time.
    HeadTimeout,
    /// A request's body did not arrive in time.
    BodyTimeout,
}

impl Refusal {
    const ALL: [Refusal; 15] = [
        Refusal::StreamLimit,
        Refusal::AddressLimit,
        Refusal::Descriptors,
        Refusal::TopicLimit,
        Refusal::PositionUnknown,
        Refusal::Draining,
        Refusal::TopicsPerSubscriber,
        Refusal::TopicBytes,
        Refusal::PublishRate,
        Refusal::Pipelined,
        Refusal::AnswerBytes,
        Refusal::UntrustedPeer,
        Refusal::DeniedTokens,
        Refusal::HeadTimeout,
        Refusal::BodyTimeout,
    ];

    /// The names of all refusals, including malformed heads and bodies.
    pub(crate) fn labels() -> impl Iterator<Item = &'static str> {
        Refusal::ALL
            .into_iter()
            .map(Refusal::as_str)
            .chain(RequestError::ALL.map(RequestError::reason))
            .chain(PublishError::REASONS)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Refusal::StreamLimit => "stream_limit",
            Refusal::AddressLimit => "address_limit",
            Refusal::Descriptors => "descriptors",
            Refusal::TopicLimit => "topic_limit",
            Refusal::PositionUnknown => "position_unknown",
            Refusal::Draining => "draining",
            Refusal::TopicsPerSubscriber => "topics_per_subscriber",
            Refusal::TopicBytes => "topic_bytes",
            Refusal::PublishRate => "publish_rate",
            Refusal::Pipelined => "pipelined",
            Refusal::AnswerBytes => "answer_bytes",
            Refusal::UntrustedPeer => "untrusted_peer",
            Refusal::DeniedTokens => "denied_tokens",
            Refusal::HeadTimeout => "head_timeout",
            Refusal::BodyTimeout => "body_timeout",
        }
    }

    pub(crate) fn status(self) -> u16 {
        match self {
            Refusal::TopicsPerSubscriber | Refusal::TopicBytes => 400,
            Refusal::UntrustedPeer => 403,
            Refusal::HeadTimeout | Refusal::BodyTimeout => 408,
            Refusal::AddressLimit | Refusal::PublishRate | Refusal::Pipelined => 429,
            Refusal::StreamLimit
            | Refusal::Descriptors
            | Refusal::TopicLimit
            | Refusal::PositionUnknown
            | Refusal::Draining
            | Refusal::AnswerBytes
            | Refusal::DeniedTokens => 503,
        }
    }

    pub(crate) fn detail(self) -> &'static str {
        match self {
            Refusal::StreamLimit => "as many streams as this server allows are open",
            Refusal::AddressLimit => "as many connections as one address may have are open",
            Refusal::Descriptors => "this server has no file descriptor left",
            Refusal::TopicLimit => "as many topics as this server allows have subscribers",
            Refusal::PositionUnknown => "this server does not know yet where the stream starts",
            Refusal::Draining => "this server is going away",
            Refusal::TopicsPerSubscriber => "the stream names more topics than one may have",
            Refusal::TopicBytes => "a topic's name is longer than this server allows",
            Refusal::PublishRate => "as many events as one token may publish in a second were published",
            Refusal::Pipelined => "more requests came ahead of their answers than this server allows",
            Refusal::AnswerBytes => "more answers than this server allows wait for clients to read them",
            Refusal::UntrustedPeer => "only trusted proxies may connect",
            Refusal::DeniedTokens => {
                "as many subjects and token ids as this server allows are denied, and to forget one would let its tokens \
                 in again: raise --max-denied-tokens, or give for_seconds with each"
            }
            Refusal::HeadTimeout => "the request's head did not arrive in time",
            Refusal::BodyTimeout => "the request's body did not arrive in time",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::response::status_label;

    #[test]
    fn every_refusal_is_counted_by_its_status() {
        for refusal in Refusal::ALL {
            assert_eq!(status_label(refusal.status()), refusal.status().to_string(), "{refusal:?}");
        }
    }
}
