//! [`Chart`]: lines over two axes, as SVG that needs no script and no font of its own.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Room for labels: left, right, top, bottom.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
/// Told apart by people who see few colours, too (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];
/// More points than pixels show nothing more.
const MOST_POINTS: usize = 600;

/// How numbers become places on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// In proportion.
    Linear,
    /// By powers of ten; only positive numbers have a place.
    Log,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is called where there are several.
    pub name: String,
    /// Where it goes.
    pub points: Vec<(f64, f64)>,
    /// Whether each point is marked.
    pub marked: bool,
}

/// Lines over two axes.
#[allow(missing_docs, reason = "the names say it")]
pub struct Chart<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub series: Vec<Series>,
}

impl Chart<'_> {
    /// As an `<svg>` element.
    pub fn svg(&self) -> String {
        let x = Axis::of(self.x_scale, self.places(|point| point.0), LEFT, WIDTH - RIGHT);
        let y = Axis::of(self.y_scale, self.places(|point| point.1), HEIGHT - BOTTOM, TOP);
        let mut out =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(self.title));
        let mut put = |element: std::fmt::Arguments<'_>| out.write_fmt(element).expect("a string takes all");
        put(format_args!("<text class=\"title\" x=\"{LEFT}\" y=\"18\">{}</text>", escape(self.title)));
        for (value, label) in x.ticks() {
            let at = x.place(value);
            put(format_args!(
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 15.0
            ));
        }
        for (value, label) in y.ticks() {
            let at = y.place(value);
            put(format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            ));
        }
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 10.0,
            escape(self.x_label)
        ));
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        put(format_args!(
            "<text x=\"14\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {middle:.1})\">{}</text>",
            escape(self.y_label)
        ));
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<(f64, f64)> = thinned(&series.points)
                .filter(|point| x.has(point.0) && y.has(point.1))
                .map(|point| (x.place(point.0), y.place(point.1)))
                .collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            put(format_args!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" points=\"{}\"/>",
                path.join(" ")
            ));
            for (x, y) in points.iter().filter(|_| series.marked) {
                put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
            }
        }
        // Names, from the right end to the left.
        let mut right = WIDTH - RIGHT;
        for (index, series) in self.series.iter().enumerate().rev().filter(|_| self.series.len() > 1) {
            let colour = COLOURS[index % COLOURS.len()];
            put(format_args!(
                "<text x=\"{right:.1}\" y=\"18\" text-anchor=\"end\" style=\"fill:{colour}\">{}</text>",
                escape(&series.name)
            ));
            right -= 7.0 * series.name.chars().count() as f64 + 12.0;
        }
        out.push_str("</svg>");
        out
    }

    fn places(&self, of: impl Fn(&(f64, f64)) -> f64) -> Vec<f64> {
        self.series.iter().flat_map(|series| &series.points).map(of).collect()
    }
}

/// Every so many'th point, and the last.
fn thinned(points: &[(f64, f64)]) -> impl Iterator<Item = &(f64, f64)> {
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.last().filter(|_| points.len() % step != 1 % step);
    points.iter().step_by(step).chain(last)
}

struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(scale: Scale, values: Vec<f64>, from: f64, to: f64) -> Self {
        let usable = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let mut low = values.iter().copied().filter(usable).fold(f64::INFINITY, f64::min);
        let mut high = values.iter().copied().filter(usable).fold(f64::NEG_INFINITY, f64::max);
        match scale {
            Scale::Linear => {
                low = low.min(0.0);
                if high <= low || !high.is_finite() {
                    high = low + 1.0;
                }
            }
            Scale::Log => {
                if !low.is_finite() {
                    (low, high) = (1.0, 10.0);
                }
                if high < low * 1.5 {
                    (low, high) = (low / 2.0, high * 2.0);
                }
            }
        }
        Self { scale, low, high, from, to }
    }

    fn has(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    fn place(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.from + part * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = round_step((self.high - self.low) / 5.0);
                let first = (self.low / step).ceil() as i64;
                let last = (self.high / step + 1e-9).floor() as i64;
                (first..=last).map(|i| i as f64 * step).map(|value| (value, short(value))).collect()
            }
            Scale::Log => {
                let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
                let inside = |value: &f64| *value >= self.low * 0.999 && *value <= self.high * 1.001;
                let factors: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let all = (first..=last).flat_map(|power| factors.iter().map(move |f| f * 10f64.powi(power)));
                all.filter(inside).map(|value| (value, short(value))).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|round| *round >= step * 0.999).unwrap_or(step)
}

/// A number in few characters.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if magnitude >= 1e4 {
        format!("{}k", trimmed(value / 1e3))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text inside of elements and attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x_scale: Scale, points: Vec<(f64, f64)>) -> String {
        let series = vec![Series { name: "a<b".into(), points, marked: true }];
        Chart { title: "T & t", x_label: "x", y_label: "y", x_scale, y_scale: Scale::Linear, series }.svg()
    }

    #[test]
    fn corners_of_the_data_are_corners_of_the_chart() {
        let svg = chart(Scale::Linear, vec![(0.0, 0.0), (10.0, 5.0)]);
        assert!(svg.contains("points=\"64.0,254.0 624.0,34.0\""), "{svg}");
        assert!(svg.contains("T &amp; t"), "{svg}");
    }

    #[test]
    fn no_data_and_odd_numbers_draw_an_empty_chart() {
        for scale in [Scale::Linear, Scale::Log] {
            for points in [vec![], vec![(0.0, f64::NAN)], vec![(0.0, 0.0)], vec![(5.0, 5.0)]] {
                let svg = chart(scale, points);
                assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        let labels = |scale, low, high| {
            let axis = Axis::of(scale, vec![low, high], 0.0, 1.0);
            axis.ticks().into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(labels(Scale::Linear, 0.0, 608.0), ["0", "200", "400", "600"]);
        assert_eq!(labels(Scale::Linear, 0.0, 45_000.0), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(labels(Scale::Log, 1.0, 64.0), ["1", "2", "5", "10", "20", "50"]);
    }
}
