//! A report as text: an overview of what is short, then what each shortage means and the lines that fix it.

use super::Report;
use super::profile;
use super::shortage::Shortage;

/// Columns for text that is not to be copied.
const WIDTH: usize = 100;

/// The lines to print; with `is_coloured`, shortages and their fixes stand out.
pub fn lines(report: &Report, is_coloured: bool) -> Vec<String> {
    let paint = |style: &str, text: &str| if is_coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text.into() };
    let connections = report.connections;
    let mut lines = Vec::new();
    if report.is_enough {
        lines.push(format!("This host carries {connections} connections."));
    } else {
        lines.push(format!("For {connections} connections this host is short of:"));
        lines.push(String::new());
        lines.extend(overview(&report.shortages));
        for shortage in &report.shortages {
            lines.push(String::new());
            lines.push(paint("1;31", &shortage.what));
            lines.extend(wrapped(&format!("If ignored: {}.", shortage.consequence), WIDTH));
            lines.extend(shortage.fixes.iter().map(|line| paint("32", &format!("    {line}"))));
        }
    }
    if report.shortages.iter().any(|shortage| profile::has(&shortage.what)) {
        lines.push(String::new());
        lines.push("The sysctls of this host's profile at once, also after a reboot:".to_owned());
        lines.push(paint("32", &format!("    sudo fanfare tune --connections {connections}")));
    }
    if let Some(state) = &report.io_uring {
        lines.push(format!("The server uses epoll by default; io_uring {state}."));
    }
    if !report.unread.is_empty() {
        lines.push(format!("Not checked, because it can't be read: {}.", report.unread.join(", ")));
    }
    lines
}

/// A report with shortages as one line of a log. If the number of connections was not asked for, it is what the limit on
/// open files allows.
pub fn summary(report: &Report, is_asked: bool) -> String {
    let connections = report.connections;
    let origin = if is_asked { "" } else { ", which the limit on open files allows" };
    let remedy = if is_asked { "" } else { "--max-connections sets the number you need, and " };
    let shortages: Vec<String> = report.shortages.iter().map(brief).collect();
    let shortages = shortages.join(", ");
    format!(
        "short for {connections} connections{origin}: {shortages}; {remedy}fanfare doctor --connections {connections} prints the fix"
    )
}

fn brief(shortage: &Shortage) -> String {
    let [has, needs] = [shortage.has, shortage.needs].map(|value| shortage.measure.text(value));
    format!("{} has {has} and needs {needs}", shortage.what)
}

fn overview(shortages: &[Shortage]) -> Vec<String> {
    let head = ["", "has", "needs", "short by"].map(str::to_owned);
    let rows = shortages.iter().map(|shortage| {
        let text = |value| shortage.measure.text(value);
        let is_ceiling = shortage.has > shortage.needs;
        let (at_most, less) = if is_ceiling { ("at most ", "too much by ") } else { ("", "") };
        let needs = format!("{at_most}{}", text(shortage.needs));
        [shortage.what.clone(), text(shortage.has), needs, format!("{less}{}", text(shortage.short_by))]
    });
    let rows: Vec<[String; 4]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let line = |[what, has, needs, by]: &[String; 4]| {
        let [a, b, c, d] = widths;
        format!("{what:a$}  {has:>b$}  {needs:>c$}  {by:>d$}")
    };
    rows.iter().map(line).collect()
}

/// A text in lines of at most `width` bytes, broken at spaces.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
