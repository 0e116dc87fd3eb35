//! A message of Redis: a channel and a payload become events of that topic, or a refusal that says whose loss it is.

use fanfare::sources::payload::{Parsed, parse, parse_topic};
use fanfare::sources::redis::{Payload, bus};

use super::publish::LIMITS;

/// The first line is the channel.
pub fn check(bytes: &[u8]) {
    let line_end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (channel, payload) = (&bytes[..line_end], bytes.get(line_end + 1..).unwrap_or_default());
    if let Ok(topic) = parse_topic("the channel's name", channel, &LIMITS) {
        assert_eq!(topic.as_str().as_bytes(), channel);
        for kind in [Payload::Raw, Payload::Envelope] {
            match parse(kind, &topic, payload, &LIMITS) {
                Ok(Parsed::Data(data)) => {
                    assert!(kind == Payload::Raw && data.len() <= LIMITS.data_bytes_max);
                    assert_eq!(data.as_bytes(), payload, "raw data is the payload");
                }
                Ok(Parsed::Events(events)) => {
                    assert!(kind == Payload::Envelope && !events.is_empty());
                    for event in &events {
                        assert_eq!(event.topic, topic, "an event of another topic");
                        assert!(event.data.len() <= LIMITS.data_bytes_max);
                    }
                }
                Err(refused) => assert_eq!(refused.topics, std::slice::from_ref(&topic)),
            }
        }
    }
    if let Ok(message) = bus::parse(payload, &LIMITS) {
        assert!(message.events.iter().all(|event| event.data.len() <= LIMITS.data_bytes_max));
    }
}
