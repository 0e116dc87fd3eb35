//! One thing that a host is short of: what, by how much, what happens if ignored, and the line that mends it.

use serde::Serialize;

/// Something is less, or more, than it has to be.
#[derive(Clone, Debug, Serialize)]
pub struct Shortage {
    /// What: a sysctl by its name, else in a few words.
    pub what: String,
    /// How much there is.
    pub has: u64,
    /// How much there has to be: at least, or at most where there is more of it.
    pub needs: u64,
    /// The difference.
    pub short_by: u64,
    /// What the numbers count.
    pub measure: Measure,
    /// What happens to whoever leaves it so.
    pub consequence: String,
    /// The lines that mend it, each to be run or written as it is.
    pub mend: Vec<String>,
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
}

impl Measure {
    /// A number with its unit.
    pub fn text(self, value: u64) -> String {
        match self {
            Measure::Count => value.to_string(),
            Measure::Pages => format!("{value} pages"),
            Measure::Seconds => format!("{value} s"),
            Measure::Bytes if value < 1 << 20 => format!("{value} B"),
            Measure::Bytes if value < 1 << 30 => format!("{:.1} MiB", value as f64 / f64::from(1 << 20)),
            Measure::Bytes => format!("{:.1} GiB", value as f64 / f64::from(1 << 30)),
        }
    }
}

impl Shortage {
    /// There is `has` of it, and `needs` was to be.
    pub fn new(what: impl Into<String>, measure: Measure, has: u64, needs: u64) -> Shortage {
        Shortage {
            what: what.into(),
            has,
            needs,
            short_by: has.abs_diff(needs),
            measure,
            consequence: String::new(),
            mend: Vec::new(),
        }
    }

    /// Says what happens to whoever ignores it.
    pub fn ignored(self, consequence: impl Into<String>) -> Shortage {
        Shortage { consequence: consequence.into(), ..self }
    }

    /// Adds a line that mends it.
    pub fn mended_by(mut self, line: impl Into<String>) -> Shortage {
        self.mend.push(line.into());
        self
    }
}
