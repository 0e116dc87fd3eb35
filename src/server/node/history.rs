//! What the statistics said of the last 15 minutes, as text of JSON: one row a second, and totals once a minute. An answer only
//! joins what is here.
//!
//! Bounded: [`ROWS_MAX`] rows of a fixed number of numbers, about 150 bytes each, and [`TOTALS_MAX`] objects of fewer than 4 KB.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// 15 minutes of seconds.
const ROWS_MAX: usize = 900;
/// As many minutes, and the one before.
const TOTALS_MAX: usize = 16;
/// Rows from one object of totals to the next.
const ROWS_PER_TOTALS: usize = 60;

/// Written by the loop that reports for all, read by every loop.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    rows: VecDeque<Box<str>>,
    totals: VecDeque<Box<str>>,
    rows_since_totals: usize,
}

impl History {
    /// Adds a row, and totals if they are due.
    pub(crate) fn add(&self, row: String, totals: impl FnOnce() -> String) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        push_bounded(&mut kept.rows, row, ROWS_MAX);
        if kept.rows_since_totals == 0 {
            push_bounded(&mut kept.totals, totals(), TOTALS_MAX);
        }
        kept.rows_since_totals = (kept.rows_since_totals + 1) % ROWS_PER_TOTALS;
    }

    /// How long they are together.
    pub(crate) fn bytes(&self) -> usize {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.rows.iter().chain(&kept.totals).map(|text| text.len() + 1).sum()
    }

    /// The rows and the totals, each the items of an array, the oldest first.
    pub(crate) fn items(&self) -> (String, String) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { rows, totals, .. } = &mut *kept;
        (rows.make_contiguous().join(","), totals.make_contiguous().join(","))
    }
}

fn push_bounded(texts: &mut VecDeque<Box<str>>, text: String, count_max: usize) {
    if texts.len() == count_max {
        texts.pop_front();
    }
    texts.push_back(text.into_boxed_str());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_last_rows_and_totals_of_each_minute_among_them() {
        let history = History::default();
        assert_eq!(history.items(), (String::new(), String::new()));
        for row in 0..ROWS_MAX + 100 {
            history.add(row.to_string(), || format!("total {row}"));
        }
        let (rows, totals) = history.items();
        assert_eq!(history.bytes(), rows.len() + totals.len() + 2);
        let rows: Vec<_> = rows.split(',').collect();
        assert_eq!((rows.len(), rows[0], rows[ROWS_MAX - 1]), (ROWS_MAX, "100", "999"));
        let totals: Vec<_> = totals.split(',').collect();
        assert_eq!((totals.len(), totals[0], totals[TOTALS_MAX - 1]), (TOTALS_MAX, "total 60", "total 960"));
    }
}
