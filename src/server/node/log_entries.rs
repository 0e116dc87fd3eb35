//! Log entries that clients and publishers can cause at will: a few of each kind in ten seconds, then a number. Entries
//! that occur once per operator action or per outage are not limited; nor are `debug` and `trace`, which are turned on
//! to see every single entry.

use std::time::Duration;

use crate::observe::log_limit::{INTERVAL, LogLimit};

/// A kind of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogEntry {
    SlotsTaken,
    DescriptorsTaken,
    AcceptFailed,
    NotWatched,
    EventDropped,
    LocalOrderFull,
    GapReported,
    SlowReaderClosed,
    OriginRefused,
    DenialsFull,
}

impl LogEntry {
    const ALL: [LogEntry; 10] = [
        LogEntry::SlotsTaken,
        LogEntry::DescriptorsTaken,
        LogEntry::AcceptFailed,
        LogEntry::NotWatched,
        LogEntry::EventDropped,
        LogEntry::LocalOrderFull,
        LogEntry::GapReported,
        LogEntry::SlowReaderClosed,
        LogEntry::OriginRefused,
        LogEntry::DenialsFull,
    ];

    pub(crate) fn text(self) -> &'static str {
        match self {
            LogEntry::SlotsTaken => "every slot is taken: accepting pauses",
            LogEntry::DescriptorsTaken => "no descriptor is left: accepting pauses",
            LogEntry::AcceptFailed => "a listener can't accept: it pauses",
            LogEntry::NotWatched => "a new connection can't be watched: it is reset, and its listener pauses",
            LogEntry::EventDropped => "dropped an event: as many topics as are allowed have subscribers",
            LogEntry::LocalOrderFull => {
                "dropped an event of this node's own: its place is taken until the bus has another entry"
            }
            LogEntry::GapReported => "events may be missing: subscribers receive a gap event",
            LogEntry::SlowReaderClosed => "closed a connection that reads too slowly",
            LogEntry::OriginRefused => "a page of this origin may not read",
            LogEntry::DenialsFull => "disconnected tokens may return: raise --max-denied-tokens",
        }
    }
}

/// The limits of all kinds of entries.
#[derive(Debug, Default)]
pub(crate) struct LogLimits([LogLimit; LogEntry::ALL.len()]);

impl LogLimits {
    /// True when another entry of this kind may be written.
    pub(super) fn may_log(&mut self, entry: LogEntry, now: Duration) -> bool {
        self.log_omitted_of(entry, now);
        self.0[entry as usize].admit(now)
    }

    /// Logs how many entries of each kind were omitted, for kinds whose interval is over.
    pub(super) fn log_omitted(&mut self, now: Duration) {
        LogEntry::ALL.into_iter().for_each(|entry| self.log_omitted_of(entry, now));
    }

    fn log_omitted_of(&mut self, entry: LogEntry, now: Duration) {
        let Some(count) = self.0[entry as usize].left_out(now) else { return };
        let message = format!("{count} more like this in the last {} s: {}", INTERVAL.as_secs(), entry.text());
        match entry {
            LogEntry::SlowReaderClosed => tracing::info!("{message}"),
            LogEntry::DenialsFull => tracing::error!("{message}"),
            LogEntry::SlotsTaken
            | LogEntry::DescriptorsTaken
            | LogEntry::AcceptFailed
            | LogEntry::NotWatched
            | LogEntry::EventDropped
            | LogEntry::LocalOrderFull
            | LogEntry::GapReported
            | LogEntry::OriginRefused => tracing::warn!("{message}"),
        }
    }
}
