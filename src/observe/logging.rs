//! Logging: entries to standard error, as text, JSON, or text with priorities for the journal.
//!
//! Never on the hot path: the server logs nothing per event or per well-behaved subscriber. No thread that logs waits
//! for a reader of the log (`log_writer`), and every entry is one line (`log_line`). The filter can be replaced while
//! the server runs. Independent of metrics.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::log_line::Lines;
use super::log_writer::{self, Counts, LastLines, Queue};
use super::quiet;
use crate::config::{LogConfig, LogFilter, LogFormat};

/// The counts of the process's log, once there is one.
static COUNTS: OnceLock<Arc<Counts>> = OnceLock::new();

/// Starts logging for the process; to be called once.
pub fn start(config: &LogConfig) -> anyhow::Result<Logging> {
    // A separate descriptor: the thread that writes may wait forever, and would hold the lock of `io::stderr`.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().context("duplicating standard error")?);
    let style = match config.format {
        LogFormat::Json => Style::Json,
        LogFormat::Text if is_journal(&stderr) => Style::Journal,
        LogFormat::Text => Style::Text { is_colored: has_colors() },
    };
    let (queue, last_lines) = log_writer::start(stderr);
    let _ = COUNTS.set(queue.counts()); // the first log is the process's
    let (subscriber, filter) = subscriber(&config.filter, style, queue.clone());
    subscriber.try_init()?;
    log_panics();
    Ok(Logging { filter, queue, _last_lines: last_lines })
}

/// The process's log. When it is dropped, the lines that wait are written, or given up if no process reads them.
#[derive(Debug)]
pub struct Logging {
    filter: FilterControl,
    queue: Queue,
    _last_lines: LastLines,
}

impl Logging {
    /// The handle that replaces the filter later.
    pub fn filter(&self) -> FilterControl {
        self.filter.clone()
    }

    /// Writes a line that is not a log entry to standard error, behind the entries that wait.
    pub fn say(&self, text: &str) {
        let mut line = Lines { writer: self.queue.clone(), is_json: false };
        let _ = line.write_all(text.as_bytes()); // the queue counts what it can't take
    }
}

/// Lines of the process's log that were lost, by reason.
pub fn lost_lines() -> [(&'static str, u64); 2] {
    let count = |of: fn(&Counts) -> u64| COUNTS.get().map_or(0, |counts| of(counts));
    [("queue_full", count(Counts::queue_full)), ("write_failed", count(Counts::write_failed))]
}

/// Without this, a thread that panics writes to standard error itself, and blocks where no process reads it.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        if quiet::is_expected() {
            return;
        }
        let thread = std::thread::current();
        let at = panic.location().map(ToString::to_string);
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let cause = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown");
        tracing::error!(thread = thread.name(), at, cause, "a thread panicked");
    }));
}

/// Replaces the log's filter while the server runs.
#[derive(Clone, Debug)]
pub struct FilterControl(reload::Handle<EnvFilter, Registry>);

impl FilterControl {
    /// Replaces the filter: only what `filter` lets through is logged after this.
    pub fn set(&self, filter: &LogFilter) -> anyhow::Result<()> {
        Ok(self.0.reload(env_filter(filter))?)
    }
}

/// How entries look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Text { is_colored: bool },
    Journal,
    Json,
}

fn subscriber<W>(filter: &LogFilter, style: Style, writer: W) -> (impl Subscriber + Send + Sync, FilterControl)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(env_filter(filter));
    let writer = Lines { writer, is_json: style == Style::Json };
    // Otherwise a failed write would be reported on standard error.
    let entries = tracing_subscriber::fmt::layer().log_internal_errors(false);
    let entries: Box<dyn Layer<_> + Send + Sync> = match style {
        Style::Text { is_colored } => entries.with_writer(writer).with_ansi(is_colored).boxed(),
        Style::Journal => entries.with_writer(writer).with_ansi(false).event_format(JournalFormat::default()).boxed(),
        Style::Json => entries
            .with_writer(writer)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    };
    (Registry::default().with(filter).with(entries), FilterControl(handle))
}

fn env_filter(filter: &LogFilter) -> EnvFilter {
    EnvFilter::new(filter.directives()) // a LogFilter was checked when it was read
}

/// <https://no-color.org>: set and not empty means none.
fn has_colors() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// True when standard error goes to the journal. The variable alone doesn't say so: children inherit it, and their
/// standard error may be a file. It names the device and inode to compare (systemd.exec(5)).
fn is_journal(stderr: &File) -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(metadata) = stderr.metadata() else { return false };
    named == format!("{}:{}", metadata.dev(), metadata.ino()).as_str()
}

/// Entries as the journal takes them from a stream: the priority in front (sd-daemon(3)), and no time, since the
/// journal has its own.
struct JournalFormat(Format<Full, ()>);

impl Default for JournalFormat {
    fn default() -> JournalFormat {
        JournalFormat(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The syslog priority of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Logs one entry of each kind and compares what was written after any time in front.
    fn check(filter: &str, style: Style, expected: &[&str]) {
        let captured = Captured::default();
        let writer = captured.clone();
        let (subscriber, _) = subscriber(&filter.parse().unwrap(), style, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "a", "broken");
            tracing::warn!(target: "a", peer = "10.0.0.1", "odd");
            tracing::debug!(target: "b", "detail");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{text}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.ends_with(expected), "{line:?} does not end with {expected:?}");
        }
    }

    #[test]
    fn entries_have_the_style_and_pass_the_filter() {
        let plain = Style::Text { is_colored: false };
        check("info", plain, &["Z ERROR a: broken", "Z  WARN a: odd peer=\"10.0.0.1\""]);
        check("error", plain, &["ERROR a: broken"]);
        check("off", plain, &[]);
        check("error,b=debug", plain, &["broken", "DEBUG b: detail"]);
        check("info", Style::Journal, &["<3>a: broken", "<4>a: odd peer=\"10.0.0.1\""]);
        check("off,b=trace", Style::Journal, &["<7>b: detail"]);
        check(
            "warn",
            Style::Json,
            &["\"message\":\"broken\",\"target\":\"a\"}", "\"peer\":\"10.0.0.1\",\"target\":\"a\"}"],
        );
    }

    #[test]
    fn the_filter_can_be_replaced() {
        let captured = Captured::default();
        let writer = captured.clone();
        let (subscriber, control) = subscriber(&"off".parse().unwrap(), Style::Journal, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            control.set(&"info".parse().unwrap()).unwrap();
            tracing::info!("after");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("after\n") && !text.contains("before"), "{text:?}");
    }
}
