//! Logging: entries to standard error, as text, JSON, or text with priorities for the journal.
//!
//! Never on the hot path: nothing is logged per event or per subscriber that behaves. The filter can be replaced
//! while the server runs. Knows no metrics.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::escape::Escaped;
use crate::config::{LogConfig, LogFilter, LogFormat};

/// Starts logging for the process; to be called once. The answer replaces the filter later.
pub fn init(config: &LogConfig) -> anyhow::Result<FilterControl> {
    let style = match config.format {
        LogFormat::Json => Style::Json,
        LogFormat::Text if is_journal_on_stderr() => Style::Journal,
        LogFormat::Text => Style::Text { is_colored: has_colors() },
    };
    let (subscriber, control) = subscriber(&config.filter, style, io::stderr);
    subscriber.try_init()?;
    Ok(control)
}

/// Replaces what is logged, while it is being logged.
#[derive(Clone, Debug)]
pub struct FilterControl(reload::Handle<EnvFilter, Registry>);

impl FilterControl {
    /// From now on only what `filter` lets through is logged.
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
    // Otherwise a closed standard error would be reported on standard error, and that panics.
    let entries = tracing_subscriber::fmt::layer().log_internal_errors(false);
    let entries: Box<dyn Layer<_> + Send + Sync> = match style {
        Style::Text { is_colored } => entries.with_writer(writer).with_ansi(is_colored).boxed(),
        Style::Journal => entries.with_writer(writer).with_ansi(false).event_format(JournalFormat::default()).boxed(),
        Style::Json => entries
            .with_writer(Escaped(writer))
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
fn is_journal_on_stderr() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let Ok(metadata) = stderr.and_then(|file| file.metadata()) else { return false };
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
