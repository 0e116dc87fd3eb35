//! The events of a run: all of them in a hash, the last ones as text.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// Lines that the trace keeps.
const TRACE_LINES_MAX: usize = 200;

/// The events of a run: all of them in a hash (FNV-1a), the last ones as text.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) hash: u64,
    pub(super) lines: VecDeque<String>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new() }
    }
}

impl Trace {
    pub(super) fn push(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        let mut line =
            if self.lines.len() < TRACE_LINES_MAX { String::new() } else { self.lines.pop_front().unwrap_or_default() };
        line.clear();
        let _ = write!(line, "{:>10.3} {what}", now.as_secs_f64());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push_back(line);
    }
}
