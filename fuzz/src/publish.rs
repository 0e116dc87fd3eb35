//! A publish body: within its limits, and the same events again when it has been over the bus.

use fanfare::protocol::envelope::envelopes;
use fanfare::protocol::publish::{PublishLimits, parse};

pub const LIMITS: PublishLimits = PublishLimits { topic_bytes_max: 100, data_bytes_max: 1000, batch_max: 10 };

pub fn check(bytes: &[u8]) {
    let events = match parse(bytes, &LIMITS) {
        Ok(events) => events,
        Err(error) => {
            assert!(matches!(error.status(), 400 | 413), "{error:?}");
            assert!(error.to_string().len() < 1000, "an error repeats what it was given: {error}");
            return;
        }
    };
    assert!((1..=LIMITS.batch_max).contains(&events.len()), "{} events", events.len());
    for event in &events {
        assert!(event.topic.as_str().len() <= LIMITS.topic_bytes_max && event.data.len() <= LIMITS.data_bytes_max);
    }
    assert_eq!(parse(envelopes(&events).as_bytes(), &LIMITS), Ok(events));
}
