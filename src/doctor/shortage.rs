//! One thing that a host is short of: what, by how much, what happens if it is ignored, and the lines that fix it.

use serde::Serialize;

/// A value that is too low, or too high.
#[derive(Clone, Debug, Serialize)]
pub struct Shortage {
    /// What: a sysctl by its name, or else a few words.
    pub what: String,
    /// How much there is.
    pub has: u64,
    /// The required value: at least this, or at most this if `has` is higher.
    pub needs: u64,
    /// The difference.
    pub short_by: u64,
    /// What the numbers count.
    pub measure: Measure,
    /// What happens if it is not fixed.
    pub consequence: String,
    /// The lines that fix it, each to be run or written unchanged.
    #[serde(rename = "mend")]
    pub fixes: Vec<String>,
}

/// What numbers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Pages of memory.
    Pages,
    /// Seconds.
    Seconds,
    /// Days.
    Days,
    /// Permissions of a file, in octal digits.
    Mode,
}

impl Measure {
    /// A number with its unit.
    pub fn text(self, value: u64) -> String {
        match self {
            Measure::Count => value.to_string(),
            Measure::Pages => format!("{value} pages"),
            Measure::Seconds => format!("{value} s"),
            Measure::Days => format!("{value} days"),
            Measure::Mode => format!("{value:o}"),
            Measure::Bytes if value < 1 << 20 => format!("{value} B"),
            Measure::Bytes if value < 1 << 30 => format!("{:.1} MiB", value as f64 / f64::from(1 << 20)),
            Measure::Bytes => format!("{:.1} GiB", value as f64 / f64::from(1 << 30)),
        }
    }
}

impl Shortage {
    /// The host has `has` of it, and needs `needs`.
    pub fn new(what: impl Into<String>, measure: Measure, has: u64, needs: u64) -> Shortage {
        Shortage {
            what: what.into(),
            has,
            needs,
            short_by: has.abs_diff(needs),
            measure,
            consequence: String::new(),
            fixes: Vec::new(),
        }
    }

    /// Sets what happens if it is ignored.
    pub fn consequence(self, consequence: impl Into<String>) -> Shortage {
        Shortage { consequence: consequence.into(), ..self }
    }

    /// Adds a line that fixes it.
    pub fn fixed_by(mut self, line: impl Into<String>) -> Shortage {
        self.fixes.push(line.into());
        self
    }
}
