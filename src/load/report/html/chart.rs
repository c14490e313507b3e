//! Charts as inline SVG: lines and stacked areas over two axes.

use std::fmt::Write;

use super::escape;
use crate::load::format::{Grouped, Nanos};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 32.0;

/// Room for the label of a mark.
const LABEL: f64 = 110.0;

/// An axis: its range and its labels.
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Nanoseconds on a logarithmic scale of whole decades.
    pub(super) fn nanos(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let low = if low.is_finite() { low.max(1.0).log10().floor() } else { 3.0 };
        let high = high.max(1.0).log10().ceil().max(low + 1.0);
        let mut ticks = Vec::new();
        for decade in 0..=19_u32 {
            if (low..=high).contains(&f64::from(decade)) {
                let nanos = 10_u64.pow(decade);
                let label = Nanos(nanos).to_string().replace(".00", "").replace(".0", "");
                ticks.push((nanos as f64, label));
            }
        }
        Self { low: 10_f64.powf(low), high: 10_f64.powf(high), is_log: true, ticks }
    }

    /// Quantiles on a logarithmic scale of `1/(1-q)`, from the median to one in `n`.
    pub(super) fn quantiles(n: u64) -> Self {
        let high = (n as f64).max(10.0);
        let mut ticks = vec![(2.0, "50 %".to_owned())];
        let mut one_in = 10_u64;
        while one_in as f64 <= high {
            let nines = one_in.ilog10() as usize;
            let label = match nines {
                1 => "90 %".to_owned(),
                2 => "99 %".to_owned(),
                more => format!("99.{} %", "9".repeat(more - 2)),
            };
            ticks.push((one_in as f64, label));
            one_in = one_in.saturating_mul(10);
        }
        Self { low: 2.0, high, is_log: true, ticks }
    }

    /// From zero to a round number, with `unit` after each label.
    pub(super) fn from_zero(high: u64, unit: &str) -> Self {
        let step = round_step(high);
        let steps = high.div_ceil(step).max(1);
        let tick = |number: u64| {
            let value = number.saturating_mul(step);
            (value, format!("{}{unit}", Grouped(value)))
        };
        let ticks = (0..=steps).map(tick).map(|(value, label)| (value as f64, label)).collect();
        Self { low: 0.0, high: steps.saturating_mul(step) as f64, is_log: false, ticks }
    }

    /// Seconds of a run, up to its exact end.
    pub(super) fn seconds(end: f64) -> Self {
        let whole = std::time::Duration::try_from_secs_f64(end).map_or(0, |end| end.as_secs());
        let mut axis = Self::from_zero(whole, " s");
        axis.high = end.max(1.0);
        axis.ticks.retain(|(second, _)| *second <= end.max(1.0));
        axis
    }

    /// The position of a value, from 0 at the low end to 1 at the high end.
    fn place(&self, value: f64) -> f64 {
        let place = if self.is_log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }
}

/// The smallest integer step of 1, 2 or 5 times a power of ten with which five steps reach `high`.
fn round_step(high: u64) -> u64 {
    let least = high.div_ceil(5).max(1);
    let decade = 10_u64.pow(least.ilog10());
    let steps = [1, 2, 5].map(|factor| decade.saturating_mul(factor));
    steps.into_iter().find(|step| *step >= least).unwrap_or(decade.saturating_mul(10))
}

/// A line of a chart, interrupted where a point is `None`.
pub(super) struct Line {
    pub(super) name: String,
    /// Index of the color in the palette, 0 to 5.
    pub(super) color: usize,
    pub(super) dashed: bool,
    pub(super) points: Vec<Option<(f64, f64)>>,
}

/// A chart under construction.
pub(super) struct Chart {
    x: Axis,
    y: Axis,
    body: String,
    legend: String,
}

impl Chart {
    pub(super) fn new(x: Axis, y: Axis) -> Self {
        Self { x, y, body: String::new(), legend: String::new() }
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (
            LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    fn add(&mut self, shape: &str) {
        self.body.push_str(shape);
        self.body.push('\n');
    }

    fn add_to_legend(&mut self, name: &str, color: usize) {
        let name = escape(name);
        let _ = write!(self.legend, "<li class=\"c{color}\"><i></i><span>{name}</span></li>");
    }

    /// Draws a line, or a dot for a single point.
    pub(super) fn line(&mut self, line: &Line) {
        self.add_to_legend(&line.name, line.color);
        let class = if line.dashed { "line dashed" } else { "line" };
        for run in line.points.split(Option::is_none) {
            let places: Vec<_> = run.iter().flatten().map(|point| self.at(*point)).collect();
            if let [(x, y)] = places[..] {
                let color = line.color;
                self.add(&format!(
                    "<circle class=\"dot c{color}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"
                ));
            } else if !places.is_empty() {
                let path: Vec<String> =
                    places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                self.add(&format!(
                    "<polyline class=\"{class} c{}\" points=\"{}\"/>",
                    line.color,
                    path.join(" ")
                ));
            }
        }
    }

    /// Fills the area between two heights; each step holds from one `x` to another.
    pub(super) fn area(&mut self, name: &str, color: usize, steps: &[(f64, f64, f64, f64)]) {
        self.add_to_legend(name, color);
        let upper = steps.iter().flat_map(|(from, to, _, high)| [(*from, *high), (*to, *high)]);
        let lower = steps.iter().rev().flat_map(|(from, to, low, _)| [(*to, *low), (*from, *low)]);
        let corners: Vec<String> = upper
            .chain(lower)
            .map(|corner| self.at(corner))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        self.add(&format!("<polygon class=\"area c{color}\" points=\"{}\"/>", corners.join(" ")));
    }

    /// Adds a tooltip between two `x`.
    pub(super) fn hover(&mut self, from: f64, to: f64, text: &str) {
        let ((left, _), (right, _)) = (self.at((from, 0.0)), self.at((to, 0.0)));
        self.add(&format!(
            "<rect class=\"hover\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\">\
             <title>{}</title></rect>",
            (right - left).max(1.0),
            HEIGHT - TOP - BOTTOM,
            escape(text)
        ));
    }

    /// Marks moments with lines from top to bottom, each with a label and a tooltip. A label that would
    /// cover the one before it is left out.
    pub(super) fn marks(&mut self, name: &str, marks: &[(f64, String, String)]) {
        if marks.is_empty() {
            return;
        }
        let name = escape(name);
        let _ = write!(self.legend, "<li class=\"marks\"><i></i><span>{name}</span></li>");
        let mut free_from = f64::NEG_INFINITY;
        for (moment, label, text) in marks {
            let (x, _) = self.at((*moment, 0.0));
            let (bottom, text) = (HEIGHT - BOTTOM, escape(text));
            self.add(&format!(
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\">\
                 <title>{text}</title></line>"
            ));
            // At the right edge it stands on the other side of its line.
            let (from, anchor, place) = match x + 4.0 + LABEL > WIDTH {
                true => (x - 4.0 - LABEL, "end", x - 4.0),
                false => (x, "start", x + 4.0),
            };
            if from >= free_from {
                free_from = from.max(x) + LABEL;
                let (y, label) = (TOP + 12.0, escape(label));
                self.add(&format!(
                    "<text class=\"label\" x=\"{place:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{label}</text>"
                ));
            }
        }
    }

    /// The chart with its heading and legend.
    pub(super) fn finish(self, title: &str) -> String {
        let mut grid = String::new();
        for (value, label) in &self.y.ticks {
            let (_, y) = self.at((self.x.low, *value));
            let _ = writeln!(
                grid,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                escape(label)
            );
        }
        for (value, label) in &self.x.ticks {
            let (x, _) = self.at((*value, self.y.low));
            let _ = writeln!(
                grid,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 20.0,
                escape(label)
            );
        }
        let title = escape(title);
        format!(
            "<section><h2>{title}</h2>\n<ul class=\"legend\">{}</ul>\n\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n{grid}{}</svg></section>\n",
            self.legend, self.body
        )
    }
}
