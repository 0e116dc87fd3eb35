//! Figures that are the same on every run, held to a committed baseline.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// How much more than its baseline a figure may be: what another minor version of the compiler makes of it.
const GROWTH_MAX: f64 = 0.03;
/// Figures this small may vary by this much, whatever share that is.
const GROWTH_MIN: f64 = 2.0;

/// What was counted, by name.
pub type Figures = BTreeMap<String, f64>;

/// Compares what a bench counted with its baseline, and fails if a figure has grown too much; with `--save` it is the new
/// baseline. `bound_of` gives the figures that have a bound of their own.
pub fn hold(bench: &str, figures: &Figures, bound_of: impl Fn(&str) -> Option<f64>) -> ExitCode {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("benches/baseline/{bench}.toml"));
    if std::env::args().any(|argument| argument == "--save") {
        let text = written(bench, figures);
        println!("{text}");
        fs::write(path, text).expect("the baseline can be written");
        return ExitCode::SUCCESS;
    }
    match compare(figures, &read(&fs::read_to_string(path).unwrap_or_default()), bound_of) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn read(text: &str) -> Figures {
    let lines = text.lines().filter_map(|line| line.split_once(" = "));
    lines.map(|(name, value)| (name.replace('"', ""), value.parse().expect("a number"))).collect()
}

fn written(bench: &str, figures: &Figures) -> String {
    let mut text =
        format!("# Written by `cargo bench --bench {bench} -- --save`; compared by the same without --save.\n");
    for (name, value) in figures {
        // Plus zero: what rounds to nothing is not written as -0.
        let value = (value * 1000.0).round() / 1000.0 + 0.0;
        text += &format!("\"{name}\" = {value:.3}\n");
    }
    text
}

/// Prints what was counted beside its baseline; false when something grew too much.
fn compare(figures: &Figures, baseline: &Figures, bound_of: impl Fn(&str) -> Option<f64>) -> bool {
    let mut fine = true;
    for (name, value) in figures {
        let grown = |known: &f64| (known * (1.0 + GROWTH_MAX)).max(known + GROWTH_MIN);
        let allowed = bound_of(name).or_else(|| baseline.get(name).map(grown)).unwrap_or(f64::INFINITY);
        let known = baseline.get(name).map_or("none".to_owned(), |known| format!("{known:.3}"));
        let verdict = if *value <= allowed { "" } else { "  TOO MUCH" };
        println!("{name}: {value:.3} (baseline {known}){verdict}");
        fine &= *value <= allowed;
    }
    fine
}
