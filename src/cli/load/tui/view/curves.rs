//! The curves of rate and latency over time.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};

use super::{Point, TIMES, View, titled, whole};

/// Initial width of the curves in seconds.
const AT_FIRST: f64 = 20.0;

impl View {
    pub(super) fn draw_rate(&self, frame: &mut Frame, area: Rect) {
        let points = self.shown(area);
        let curve: Vec<_> = points
            .iter()
            .flat_map(|point| [(point.start, point.rate), (point.end, point.rate)])
            .collect();
        let top = round_up(points.iter().map(|point| point.rate).fold(1.0, f64::max));
        let data = Dataset::default()
            .data(&curve)
            .marker(Marker::Braille)
            .graph_type(GraphType::Area)
            .style(Color::Green);
        let y_axis =
            Axis::default().bounds([0.0, top]).labels(["0".to_owned(), whole(top).to_string()]);
        let chart = Chart::new(vec![data])
            .block(titled(self.rate()))
            .x_axis(seconds(&points))
            .y_axis(y_axis);
        frame.render_widget(chart, area);
    }

    pub(super) fn draw_latency(&self, frame: &mut Frame, area: Rect) {
        let points = self.shown(area);
        let times = || points.iter().filter_map(|point| point.times).flatten();
        let least = times().min().map_or(3, u64::ilog10);
        let most = times().max().map_or(least, u64::ilog10) + 1;
        let curves = [0, 1, 2].map(|which| {
            let timed = points.iter().filter_map(|point| Some((point, point.times?[which])));
            let curve = timed.flat_map(|(point, nanos)| {
                let height = (nanos as f64).log10();
                [(point.start, height), (point.end, height)]
            });
            curve.collect::<Vec<_>>()
        });
        let data = curves.iter().zip(TIMES).map(|(curve, (_, color))| {
            let data = Dataset::default().data(curve).marker(Marker::Braille).style(color);
            data.graph_type(GraphType::Line)
        });
        let y_axis = Axis::default()
            .bounds([least.into(), most.into()])
            .labels((least..=most).map(power_of_ten));
        // Reversed, so that p50 is drawn last and stays visible where the curves coincide.
        let chart = Chart::new(data.rev().collect())
            .block(titled(self.latency()))
            .x_axis(seconds(&points))
            .y_axis(y_axis);
        frame.render_widget(chart, area);
    }

    /// The latest points, about one per column.
    fn shown(&self, area: Rect) -> Vec<&Point> {
        let columns = usize::from(area.width.saturating_sub(10));
        self.points.iter().skip(self.points.len().saturating_sub(columns)).collect()
    }
}

/// The time axis of the points shown, in seconds of the run.
fn seconds<'a>(points: &[&Point]) -> Axis<'a> {
    let from = points.first().map_or(0.0, |point| point.start);
    let to = points.last().map_or(0.0, |point| point.end).max(from + AT_FIRST);
    Axis::default().bounds([from, to]).labels([format!("{from:.0} s"), format!("{to:.0} s")])
}

/// Rounds up to one significant digit.
fn round_up(number: f64) -> f64 {
    let unit = 10_f64.powf(number.log10().floor());
    (number / unit).ceil() * unit
}

/// A power of ten of nanoseconds, with its unit.
fn power_of_ten(power: u32) -> String {
    let (unit, below) = match power {
        0..3 => ("ns", 0),
        3..6 => ("µs", 3),
        6..9 => ("ms", 6),
        _ => ("s", 9),
    };
    format!("{} {unit}", 10_u64.pow(power - below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_numbers() {
        for (number, round) in [(1.0, 1.0), (998.0, 1000.0), (20_001.0, 30_000.0), (7.2, 8.0)] {
            assert!((round_up(number) - round).abs() < 1e-6, "{number}");
        }
        let powers = [0, 2, 3, 5, 8, 9, 12].map(power_of_ten);
        assert_eq!(powers, ["1 ns", "100 ns", "1 µs", "100 µs", "100 ms", "1 s", "1000 s"]);
    }
}
