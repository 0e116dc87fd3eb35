//! The display while a test runs: a few lines that redraw themselves on a terminal, otherwise a line periodically. It
//! goes to standard error, so that standard output holds only the requested events and the summary.

use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use super::conductor::Display;
use super::summary::{thousands, time};
use super::tally::Snapshot;
use super::timeline::{Point, Timeline};

/// The style of the progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Redrawn in place, with colours.
    Live,
    /// A line every few seconds.
    Lines,
    /// Not at all.
    Quiet,
}

/// Where events and the summary go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error: the figures take standard output.
    Stderr,
}

impl Output {
    /// Writes a text.
    pub fn write(self, text: &str) -> io::Result<()> {
        match self {
            Output::Stdout => stdout().lock().write_all(text.as_bytes()),
            Output::Stderr => stderr().lock().write_all(text.as_bytes()),
        }
    }

    /// True when it is a terminal that may have colours.
    pub fn is_coloured(self) -> bool {
        let is_terminal = match self {
            Output::Stdout => stdout().is_terminal(),
            Output::Stderr => stderr().is_terminal(),
        };
        is_terminal && std::env::var_os("NO_COLOR").is_none()
    }
}

/// Shows progress on standard error, and events where the summary will go.
pub struct Terminal {
    style: Style,
    output: Output,
    shown_at: Option<Instant>,
    /// Lines to erase before the next drawing.
    drawn: usize,
}

const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(2);

impl Terminal {
    /// Shows progress in that style, and events on `output`.
    pub fn new(style: Style, output: Output) -> Terminal {
        Terminal { style, output, shown_at: None, drawn: 0 }
    }

    /// Erases the drawing, to make room for the summary.
    pub fn clear(&mut self) {
        if self.drawn > 0 {
            write_out(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }
}

impl Display for Terminal {
    fn line(&mut self, line: &str) {
        self.clear();
        let _ = self.output.write(&format!("{line}\n"));
    }

    fn progress(&mut self, stage: &str, clients: u32, snapshot: &Snapshot, timeline: &Timeline) {
        let interval = if self.style == Style::Live { REDRAW_INTERVAL } else { LINE_INTERVAL };
        if self.style == Style::Quiet || self.shown_at.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        self.shown_at = Some(Instant::now());
        if self.style == Style::Lines {
            return write_out(&format!("{}\n", progress_line(stage, snapshot, timeline.points())));
        }
        self.clear();
        let lines = drawing(stage, clients, snapshot, timeline.points());
        self.drawn = lines.len();
        write_out(&(lines.join("\n") + "\n"));
    }
}

/// Progress is optional: a closed terminal does not stop a measurement.
fn write_out(text: &str) {
    let _ = stderr().lock().write_all(text.as_bytes());
}

fn progress_line(stage: &str, snapshot: &Snapshot, points: &[Point]) -> String {
    let second = points.last().map_or(0, |point| point.at_ms / 1000);
    let open = thousands(f64::from(snapshot.open));
    let errors = thousands(snapshot.counters.errors as f64);
    format!("{second:4} s  {stage:10} {open} open, {}, {errors} errors", rates(points))
}

fn drawing(stage: &str, clients: u32, snapshot: &Snapshot, points: &[Point]) -> Vec<String> {
    const BAR_CELLS: u32 = 32;
    let counters = &snapshot.counters;
    let filled = (u64::from(snapshot.open.min(clients)) * u64::from(BAR_CELLS) / u64::from(clients.max(1))) as usize;
    let bar = "█".repeat(filled) + &"░".repeat(BAR_CELLS as usize - filled);
    let faults = counters.duplicated_events + counters.disordered_events + counters.corrupted_events;
    // Red as soon as something is wrong, so that it is visible from a distance.
    let colour = if counters.errors + faults > 0 { "\x1b[31m" } else { "\x1b[32m" };
    let (open, clients) = (thousands(f64::from(snapshot.open)), thousands(f64::from(clients)));
    vec![
        format!("\x1b[1m{stage:10}\x1b[0m \x1b[36m{bar}\x1b[0m {open} of {clients} open"),
        format!("delivered  \x1b[36m{}\x1b[0m {}", sparkline(&deliveries(points), BAR_CELLS as usize), rates(points)),
        format!(
            "           {colour}{} errors, {} duplicated, {} disordered, {} corrupted, {} gaps\x1b[0m",
            thousands(counters.errors as f64),
            thousands(counters.duplicated_events as f64),
            thousands(counters.disordered_events as f64),
            thousands(counters.corrupted_events as f64),
            thousands(counters.gap_events as f64),
        ),
    ]
}

fn rates(points: &[Point]) -> String {
    let delivered = deliveries(points).last().copied().unwrap_or(0);
    let latency = points.last().and_then(|point| point.latency_us);
    let latency = latency.map_or_else(String::new, |[_, p99, _]| format!(", p99 {}", time(p99)));
    format!("{} delivered/s{latency}", thousands(delivered as f64))
}

/// Messages delivered in the second before each point.
fn deliveries(points: &[Point]) -> Vec<u64> {
    points.windows(3).map(|three| three[0].rate_to(&three[2], |point| point.delivered) as u64).collect()
}

/// The last `cells` values as bars of eight heights.
fn sparkline(values: &[u64], cells: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(cells)..];
    let max = shown.iter().max().copied().unwrap_or(0).max(1);
    let bars: String = shown.iter().map(|value| BARS[(value * 7 / max) as usize]).collect();
    format!("{bars}{}", " ".repeat(cells - shown.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_the_newest_values() {
        let check = |values: &[u64], cells: usize, expected: &str| assert_eq!(sparkline(values, cells), expected);
        check(&[], 3, "   ");
        check(&[0, 0], 3, "▁▁ ");
        check(&[9, 0, 7, 14], 3, "▁▄█");
    }

    #[test]
    fn lines_have_no_escape_sequences() {
        let points = [(6000, 0), (6500, 1400), (7000, 1500)].map(|(at_ms, delivered)| Point {
            at_ms,
            delivered,
            latency_us: Some([1, 2500, 3]),
            ..Point::default()
        });
        let snapshot = Snapshot { open: 1000, ..Snapshot::default() };
        let line = progress_line("holding", &snapshot, &points);
        assert_eq!(line, "   7 s  holding    1,000 open, 1,500 delivered/s, p99 2.5 ms, 0 errors");
    }
}
