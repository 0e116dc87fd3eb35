//! `fanfare subscribe`: prints a stream's events as they arrive.
//!
//! Standard output gets only events; messages about the connection go to standard error. Ctrl-C keeps its default
//! effect: the output is complete up to the last line.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::UsageError;
use crate::cli::SubscribeArgs;
use crate::client::stream::{Report, Subscription, follow};
use crate::client::token::BearerToken;
use crate::client::{self, printable};
use crate::event::GAP_EVENT_TYPE;
use crate::protocol::decoder::Item;

/// Holds a bearer token for the stream.
const TOKEN_VARIABLE: &str = "FANFARE_TOKEN";

const BOLD_YELLOW: &str = "\x1b[1;33m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Prints the stream until it ends for good or `--count` is reached.
pub(super) fn run(args: &SubscribeArgs) -> anyhow::Result<ExitCode> {
    let mut endpoint = super::endpoint(&args.url, "/events")?;
    if !args.topics.is_empty() {
        endpoint.url.query_pairs_mut().extend_pairs(args.topics.iter().map(|topic| ("topic", topic.as_str())));
    }
    let headers: Result<_, _> = args.headers.iter().map(|text| client::header(text)).collect();
    let subscription = Subscription {
        endpoint,
        headers: headers.map_err(|advice| UsageError(format!("--header: {advice}")))?,
        token: BearerToken::read(args.token_file.as_deref(), TOKEN_VARIABLE)?,
        trust: super::trust(args.ca.as_deref())?,
        last_event_id: args.last_event_id.clone(),
        silence_max: args.idle_timeout,
        reconnects: !args.no_reconnect,
    };
    let mut printer = Printer { style: Style::of(args), left: args.count, output: io::stdout().lock() };
    let mut written = Ok(());
    follow(&subscription, |report| match report {
        Report::Item(item) => {
            let flow = printer.print(item, SystemTime::now());
            flow.unwrap_or_else(|error| {
                written = Err(error);
                ControlFlow::Break(())
            })
        }
        waiting @ Report::Waiting { .. } => {
            let _ = writeln!(io::stderr(), "{}: {waiting}", subscription.endpoint);
            ControlFlow::Continue(())
        }
    })?;
    written?;
    Ok(ExitCode::SUCCESS)
}

/// How an event looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Time, type, id and data for a person.
    Plain { is_colored: bool },
    /// The data, byte for byte, and a line end.
    DataOnly,
    /// One object a line.
    Json,
}

impl Style {
    fn of(args: &SubscribeArgs) -> Style {
        let wants_no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match (args.json, args.data_only) {
            (true, _) => Style::Json,
            (_, true) => Style::DataOnly,
            _ => Style::Plain { is_colored: io::stdout().is_terminal() && !wants_no_color },
        }
    }
}

/// Writes events, and counts them.
struct Printer<W> {
    style: Style,
    /// Events still to print; none means no limit.
    left: Option<u64>,
    output: W,
}

#[derive(Serialize)]
struct JsonEvent<'a> {
    id: Option<&'a str>,
    event: &'a str,
    data: &'a str,
}

impl<W: Write> Printer<W> {
    /// Breaks when the last wanted event is written. A gap event is the server's report about events, and does not
    /// count.
    fn print(&mut self, item: Item<'_>, now: SystemTime) -> io::Result<ControlFlow<()>> {
        let Item::Event { event_type, data, id } = item else { return Ok(ControlFlow::Continue(())) };
        match self.style {
            Style::Plain { is_colored } => self.write_plain(event_type, data, id, now, is_colored)?,
            Style::DataOnly if event_type == GAP_EVENT_TYPE => {}
            Style::DataOnly => writeln!(self.output, "{data}")?,
            Style::Json => {
                let id = Some(id).filter(|id| !id.is_empty());
                serde_json::to_writer(&mut self.output, &JsonEvent { id, event: event_type, data })?;
                writeln!(self.output)?;
            }
        }
        self.output.flush()?;
        if event_type != GAP_EVENT_TYPE
            && let Some(left) = &mut self.left
        {
            *left -= 1;
            if *left == 0 {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn write_plain(
        &mut self,
        event_type: &str,
        data: &str,
        id: &str,
        now: SystemTime,
        is_colored: bool,
    ) -> io::Result<()> {
        let is_gap = event_type == GAP_EVENT_TYPE;
        let (head, reset) = match (is_colored, is_gap) {
            (false, _) => ("", ""),
            (true, false) => (DIM, RESET),
            (true, true) => (BOLD_YELLOW, RESET),
        };
        let mark = if is_gap { "!! " } else { "" };
        let (time, event_type, id) = (clock(now), printable(event_type), printable(id));
        let id = if id.is_empty() { "-".to_owned() } else { id };
        write!(self.output, "{head}{time}  {mark}{event_type}  {id}{reset}  ")?;
        // Lines after the first are indented, so that the beginning of an event is always visible.
        for (index, line) in data.split('\n').enumerate() {
            let indent = if index == 0 { "" } else { "    " };
            writeln!(self.output, "{indent}{}", printable(line))?;
        }
        Ok(())
    }
}

/// The time of day in UTC: the standard library has no time zones, and they are not worth a crate here.
fn clock(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (second, ms) = (since.as_secs() % 86_400, since.subsec_millis());
    format!("{:02}:{:02}:{:02}.{ms:03}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(style: Style, (event_type, id, data): (&str, &str, &str), expected: &str) {
        let mut printer = Printer { style, left: None, output: Vec::new() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_000 + 3_723_004);
        assert!(printer.print(Item::Event { event_type, data, id }, now).unwrap().is_continue());
        assert_eq!(String::from_utf8(printer.output).unwrap(), expected);
    }

    #[test]
    fn events_look_as_asked() {
        let plain = Style::Plain { is_colored: false };
        check(plain, ("message", "7", "a"), "01:02:03.004Z  message  7  a\n");
        check(plain, ("message", "", "a\nb"), "01:02:03.004Z  message  -  a\n    b\n");
        check(plain, ("x\x1b", "7", "\x1b[2J"), "01:02:03.004Z  x\u{fffd}  7  \u{fffd}[2J\n");
        check(plain, ("gap", "7", "{}"), "01:02:03.004Z  !! gap  7  {}\n");
        let colored = Style::Plain { is_colored: true };
        check(colored, ("gap", "7", "{}"), "\x1b[1;33m01:02:03.004Z  !! gap  7\x1b[0m  {}\n");
        check(Style::DataOnly, ("message", "7", "a\nb\x1b"), "a\nb\x1b\n");
        check(Style::DataOnly, ("gap", "7", "{}"), "");
        check(
            Style::Json,
            ("message", "7", "a\n\"b\""),
            "{\"id\":\"7\",\"event\":\"message\",\"data\":\"a\\n\\\"b\\\"\"}\n",
        );
        check(Style::Json, ("message", "", ""), "{\"id\":null,\"event\":\"message\",\"data\":\"\"}\n");
    }

    #[test]
    fn the_count_is_of_events_and_not_of_gaps_or_comments() {
        let mut printer = Printer { style: Style::DataOnly, left: Some(2), output: Vec::new() };
        let event = |event_type| Item::Event { event_type, data: "a", id: "" };
        let items = [event("message"), event("gap"), Item::Comment("heartbeat"), event("other")];
        let flows = items.map(|item| printer.print(item, SystemTime::UNIX_EPOCH).unwrap().is_break());
        assert_eq!(flows, [false, false, false, true]);
    }
}
