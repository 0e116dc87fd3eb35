//! Prometheus text exposition format 0.0.4: a writer of families and samples. Contains no metric's name.

use std::fmt::{Display, Write};

use super::histogram::Histogram;

/// A page of metrics being written.
#[derive(Debug, Default)]
pub struct Page(String);

/// What a family's values are.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
}

impl Page {
    /// One value without labels.
    pub fn single(&mut self, kind: Kind, name: &str, help: &str, value: impl Display) {
        self.family(kind, name, help, [(&[][..], value)]);
    }

    /// A value for each value of one label.
    pub fn by<'a, V: Display>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        self.head(kind, name, help);
        values.into_iter().for_each(|(key, value)| self.sample(name, &[(label, key)], value));
    }

    /// Values with any labels.
    pub fn family<'a, V: Display>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], V)>,
    ) {
        self.head(kind, name, help);
        samples.into_iter().for_each(|(labels, value)| self.sample(name, labels, value));
    }

    /// A histogram, in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} histogram"));
        for (bound_us, count) in histogram.cumulative() {
            let bound = bound_us.map_or("+Inf".to_owned(), |us| (us as f64 / 1e6).to_string());
            self.sample(&format!("{name}_bucket"), &[("le", &bound)], count);
        }
        self.sample(&format!("{name}_sum"), &[], histogram.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), &[], histogram.count());
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.0
    }

    fn head(&mut self, kind: Kind, name: &str, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        match labels.is_empty() {
            true => self.line(format_args!("{name} {value}")),
            false => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes what it is given");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.single(Kind::Gauge, "a_bytes", "Bytes.", 7);
        page.by(Kind::Counter, "b_total", "By reason.", "reason", [("x", 1), ("say \"hi\"\n", 2)]);
        let text = page.into_text();
        assert_eq!(
            text,
            "# HELP a_bytes Bytes.\n# TYPE a_bytes gauge\na_bytes 7\n\
             # HELP b_total By reason.\n# TYPE b_total counter\n\
             b_total{reason=\"x\"} 1\nb_total{reason=\"say \\\"hi\\\"\\n\"} 2\n"
        );
    }

    #[test]
    fn a_histogram_is_cumulative_and_in_seconds() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::from_micros(30));
        let mut page = Page::default();
        page.histogram("t_seconds", "Time.", &histogram);
        let text = page.into_text();
        assert!(text.contains("t_seconds_bucket{le=\"0.000025\"} 0\nt_seconds_bucket{le=\"0.00005\"} 1\n"), "{text}");
        assert!(
            text.ends_with("t_seconds_bucket{le=\"+Inf\"} 1\nt_seconds_sum 0.00003\nt_seconds_count 1\n"),
            "{text}"
        );
    }
}
