//! A message of Redis: a channel and a payload become events of that topic, or a refusal that says whose loss it is.

use fanfare::sources::redis::payload::parse;
use fanfare::sources::redis::{Payload, bus};

use super::publish::LIMITS;

/// The first line is the channel.
pub fn check(bytes: &[u8]) {
    let line_end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (channel, payload) = (&bytes[..line_end], bytes.get(line_end + 1..).unwrap_or_default());
    for kind in [Payload::Raw, Payload::Envelope] {
        match parse(kind, channel, payload, &LIMITS) {
            Ok(events) => {
                assert!(!events.is_empty());
                for event in &events {
                    assert_eq!(event.topic.as_str().as_bytes(), channel, "an event of another topic");
                    assert!(event.data.len() <= LIMITS.data_bytes_max);
                }
                if kind == Payload::Raw {
                    assert_eq!(events[0].data.as_bytes(), payload, "raw data is the payload");
                }
            }
            Err(refused) => assert!(refused.topics.iter().all(|topic| topic.as_str().as_bytes() == channel)),
        }
    }
    if let Ok(message) = bus::parse(payload, &LIMITS) {
        assert!(message.events.iter().all(|event| event.data.len() <= LIMITS.data_bytes_max));
    }
}
