//! Medians and spreads: on a shared machine the mean belongs to the neighbours.

use std::fmt;

/// A sample's middle and spread.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    /// The quartiles.
    pub low: f64,
    pub high: f64,
    pub count: usize,
}

impl Spread {
    /// Of a sample, in any order.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Spread {
            median: quantile(&values, 0.5),
            low: quantile(&values, 0.25),
            high: quantile(&values, 0.75),
            count: values.len(),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        let Spread { median, low, high, count } = self;
        write!(f, "{median:.decimals$} (quartiles {low:.decimals$} to {high:.decimals$}, n={count})")
    }
}

/// A quantile of sorted values, linear between neighbours.
pub fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = quantile * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}
