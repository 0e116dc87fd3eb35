//! The comparison as an SVG: a panel of bars for each measure, readable on light and dark pages.

use std::fmt::Write;

use super::Row;

const WIDTH: usize = 420;
const BAR: usize = 22;
const PANEL_HEAD: usize = 34;
const LABEL_WIDTH: usize = 80;
const VALUE_WIDTH: usize = 90;

/// A measure: its title, its value for a row, and how that is written.
type Panel = (&'static str, fn(&Row) -> f64, fn(f64) -> String);

const PANELS: [Panel; 4] = [
    ("user memory per subscriber (less is better)", |row| row.user_bytes / 1024.0, |value| format!("{value:.2} KiB")),
    ("CPU per delivered event (less is better)", |row| row.cpu_ns.median / 1e3, |value| format!("{value:.1} µs")),
    ("last of 10,000 reached after (less is better)", |row| row.last_ms.median, |value| format!("{value:.0} ms")),
    ("most delivered events/s (more is better)", |row| row.burst_per_second / 1e3, |value| format!("{value:.0},000")),
];

/// Draws the panels two by two.
pub(super) fn svg(rows: &[Row]) -> String {
    let panel_height = PANEL_HEAD + rows.len() * BAR + 16;
    let (width, height) = (2 * WIDTH, 2 * panel_height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#777\">\n"
    );
    for (index, panel) in PANELS.iter().enumerate() {
        let (x, y) = (index % 2 * WIDTH, index / 2 * panel_height);
        draw(&mut out, panel, rows, x, y);
    }
    out + "</svg>\n"
}

fn draw(out: &mut String, (title, value, label): &Panel, rows: &[Row], x: usize, y: usize) {
    let top = rows.iter().map(value).fold(f64::MIN_POSITIVE, f64::max);
    let mut line = |text: String| writeln!(out, "{text}").expect("a String takes all text");
    line(format!("<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{title}</text>", x + 8, y + 20));
    for (index, row) in rows.iter().enumerate() {
        let (left, bar_top) = (x + LABEL_WIDTH, y + PANEL_HEAD + index * BAR);
        let length = (value(row) / top * (WIDTH - LABEL_WIDTH - VALUE_WIDTH) as f64).max(1.0);
        let colour = if index == 0 { "#d9480f" } else { "#8aa1b5" };
        let middle = bar_top + BAR / 2 + 4;
        line(format!("<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", left - 8, row.name));
        let bar = format!("y=\"{}\" width=\"{length:.1}\" height=\"{}\"", bar_top + 3, BAR - 6);
        line(format!("<rect x=\"{left}\" {bar} fill=\"{colour}\"/>"));
        line(format!("<text x=\"{:.1}\" y=\"{middle}\">{}</text>", left as f64 + length + 6.0, label(value(row))));
    }
}
