//! Line plots as SVG, small enough for a page: axes with round numbers, a grid, a legend.
//!
//! Colours are classes (`series0` …), so that the page decides them for light and dark. Independent of load tests.

use std::fmt::Write;

/// A plot.
pub struct Plot<'a> {
    /// Its title.
    pub title: &'a str,
    /// Formats a value of the vertical axis.
    pub label: fn(f64) -> String,
    /// The marks of the horizontal axis; without any, it has round numbers.
    pub marks: Vec<(f64, String)>,
    /// True for a logarithmic vertical axis.
    pub is_logarithmic: bool,
    /// Names and points, in order along the horizontal axis.
    pub series: Vec<(&'a str, Vec<(f64, f64)>)>,
}

/// The size of a plot, so that its text is as large as the page's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// The element's class.
    pub class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    top: f64,
    /// The place of the first name in the legend, and the distance to the next.
    legend: (f64, f64),
    /// How far below the top the legend is.
    legend_y: f64,
}

/// For a page that is as wide as a text.
pub const WIDE: Frame =
    Frame { class: "wide", width: 720.0, height: 260.0, left: 76.0, top: 34.0, legend: (330.0, 130.0), legend_y: 18.0 };
/// For a telephone: the legend is below the title.
pub const NARROW: Frame =
    Frame { class: "narrow", width: 328.0, height: 230.0, left: 66.0, top: 54.0, legend: (0.0, 112.0), legend_y: 38.0 };
const RIGHT: f64 = 28.0;
const BOTTOM: f64 = 30.0;

impl Plot<'_> {
    /// The plot as one `<svg>` element.
    pub fn to_svg(&self, frame: Frame) -> String {
        let Frame { class, width, height, left, top, legend: (legend_x, legend_step), legend_y } = frame;
        let (x_from, x_to) = span(self.points().map(|(x, _)| x), 0.0);
        let (y_from, y_to) = if self.is_logarithmic { self.decades() } else { (0.0, self.linear_top()) };
        let x_at = |x: f64| left + (x - x_from) / (x_to - x_from) * (width - left - RIGHT);
        let height_of = |y: f64| if self.is_logarithmic { y.max(1.0).log10() } else { y };
        let y_at = |y: f64| height - BOTTOM - (height_of(y) - y_from) / (y_to - y_from) * (height - top - BOTTOM);
        let mut svg = format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\
             <title>{title}</title>\n<text class=\"title\" x=\"0\" y=\"18\">{title}</text>\n",
            title = escaped(self.title)
        );
        for value in self.heights(y_from, y_to) {
            let (y, label) = (y_at(value), escaped(&(self.label)(value)));
            let right = width - RIGHT;
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>");
            let _ = writeln!(svg, "<text class=\"height\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>", left - 8.0, y + 4.0);
        }
        let round = || steps(x_from, x_to).into_iter().map(|x| (x, format!("{x} s"))).collect();
        let marks: Vec<(f64, String)> = if self.marks.is_empty() { round() } else { self.marks.clone() };
        for (x, label) in marks.iter().filter(|(x, _)| (x_from..=x_to).contains(x)) {
            let (x, y) = (x_at(*x), height - 8.0);
            let _ = writeln!(svg, "<text class=\"mark\" x=\"{x:.1}\" y=\"{y}\">{}</text>", escaped(label));
        }
        for (index, (name, points)) in self.series.iter().enumerate() {
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{:.1} {:.1}", x_at(*x), y_at(*y))).collect();
            if !path.is_empty() {
                let _ = writeln!(svg, "<path class=\"series series{index}\" d=\"M{}\"/>", path.join("L"));
            }
            let (x, y) = (legend_x + legend_step * index as f64, legend_y);
            let _ = writeln!(svg, "<path class=\"series series{index}\" d=\"M{x} {}h18\"/>", y - 4.0);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", x + 24.0, escaped(name));
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.series.iter().flat_map(|(_, points)| points.iter().copied())
    }

    fn linear_top(&self) -> f64 {
        let top = self.points().map(|(_, y)| y).fold(1.0, f64::max);
        steps(0.0, top).last().map_or(top, |last| if *last < top { top * 1.05 } else { *last })
    }

    /// The powers of ten around all values, as exponents.
    fn decades(&self) -> (f64, f64) {
        let (from, to) = span(self.points().map(|(_, y)| y.max(1.0).log10()), 0.0);
        (from.floor(), to.ceil().max(from.floor() + 1.0))
    }

    fn heights(&self, from: f64, to: f64) -> Vec<f64> {
        if self.is_logarithmic {
            (from as i32..=to as i32).map(|exponent| 10f64.powi(exponent)).collect()
        } else {
            steps(from, to)
        }
    }
}

/// The smallest and the largest value, never equal.
fn span(values: impl Iterator<Item = f64>, default: f64) -> (f64, f64) {
    let (from, to) = values.fold((f64::MAX, f64::MIN), |(from, to), value| (from.min(value), to.max(value)));
    if from > to { (default, default + 1.0) } else { (from, to.max(from + 1.0)) }
}

/// About five round numbers from `from` to `to`.
fn steps(from: f64, to: f64) -> Vec<f64> {
    let rough = ((to - from) / 5.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (from / step).ceil() as i64;
    (first..).map(|n| n as f64 * step).take_while(|value| *value <= to * 1.0001).collect()
}

/// Text escaped for HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        let check = |from: f64, to: f64, expected: &[f64]| assert_eq!(steps(from, to), expected, "{from}..{to}");
        check(0.0, 10.0, &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        check(0.0, 1000.0, &[0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        check(0.0, 7.0, &[0.0, 2.0, 4.0, 6.0]);
        check(3.0, 3.5, &[3.0, 3.1, 3.2, 3.3000000000000003, 3.4000000000000004, 3.5]);
    }

    #[test]
    fn points_stay_within_the_frame() {
        for (is_logarithmic, frame) in [(false, WIDE), (true, WIDE), (false, NARROW), (true, NARROW)] {
            let series = vec![("a<b", vec![(0.0, 0.0), (1.0, 5.0), (9.0, 123_456.0)]), ("none", Vec::new())];
            let svg = Plot { title: "T&U", label: |y| format!("{y}"), marks: Vec::new(), is_logarithmic, series }
                .to_svg(frame);
            assert!(svg.contains("T&amp;U") && svg.contains("a&lt;b"));
            let path = svg.split("series0\" d=\"M").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            for pair in path.split('L') {
                let (x, y) = pair.split_once(' ').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!(
                    (frame.left..=frame.width - RIGHT).contains(&x)
                        && (frame.top - 0.1..=frame.height - BOTTOM + 0.1).contains(&y),
                    "{pair}"
                );
            }
        }
    }
}
