//! The `Date` header (RFC 9110, 6.6.1).

use std::time::{SystemTime, UNIX_EPOCH};

/// The `Date` header, formatted once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    pub(super) fn at(&mut self, time: SystemTime) -> &str {
        let second = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text = httpdate::fmt_http_date(time);
        }
        &self.text
    }
}
