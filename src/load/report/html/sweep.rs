//! A sweep, or two, as an HTML page.

use std::fmt::Write;

use super::chart::{Axis, Chart, Line};
use super::{absent, escape, latency_chart, page, paragraph};
use crate::load::report::compare::SIGNIFICANCE;
use crate::load::report::{RateReport, SweepComparison, SweepReport};

/// A rate and a figure, or no figure.
type Point = Option<(f64, f64)>;

impl SweepReport {
    /// The report as one HTML page with the curve. Untrusted text is escaped.
    pub fn to_html(&self) -> String {
        let mut body = self.about();
        body.push_str("<div class=\"pair\">\n");
        body.push_str(&latency_by_rate(&[("", self)]));
        body.push_str(&answers_by_rate(&[("", self)]));
        body.push_str("</div>\n");
        body.push_str(&self.table());
        page("saltecho load sweep", &body)
    }

    /// Its command, what was measured, and what follows.
    fn about(&self) -> String {
        let generator = &self.generator;
        let mut text = format!("<pre>{}</pre>\n", escape(&generator.program.command_line()));
        let started = format!("started {}", generator.program.began_utc());
        for line in [self.what(), started, generator.where_from()] {
            paragraph(&mut text, "dim", &line);
        }
        for remark in self.remarks() {
            let class = if remark.starts_with("Warning") { "warning" } else { "explanation" };
            paragraph(&mut text, class, &remark);
        }
        text
    }

    /// A line through the rates. Where it has no figure, it is interrupted.
    fn points(&self, figure: impl Fn(&RateReport) -> Option<u64>) -> Vec<Point> {
        let point = |rate: &RateReport| Some((rate.rate_per_s as f64, figure(rate)? as f64));
        self.rates.iter().map(point).collect()
    }

    fn table(&self) -> String {
        let mut text = String::from(
            "<section><h2>Rates</h2>\n<div class=\"wide\"><table>\n<tr><th>rate/s</th>\
             <th>answered/s</th><th>p50</th><th>p99</th><th>p99 of each window</th><th>within</th>\
             <th></th></tr>\n",
        );
        for rate in &self.rates {
            let [due, cells @ ..] = self.row(rate);
            let cells = cells.map(|cell| format!("<td>{}</td>", escape(&cell))).concat();
            let _ = writeln!(text, "<tr><th>{}</th>{cells}</tr>", escape(&due));
        }
        text + "</table></div></section>\n"
    }
}

impl SweepComparison<'_> {
    /// Both sweeps in the same charts, as one HTML page. Untrusted text is escaped.
    pub fn to_html(&self) -> String {
        let mut body = String::from("<div class=\"pair\">\n");
        for (which, sweep) in [("Old", self.old), ("New", self.new)] {
            let _ = writeln!(body, "<section><h2>{which}</h2>\n{}</section>", sweep.about());
        }
        body.push_str("</div>\n");
        if let Some(difference) = self.difference() {
            paragraph(&mut body, "warning", difference);
        }
        paragraph(&mut body, "explanation", SIGNIFICANCE);
        body.push_str("<div class=\"pair\">\n");
        body.push_str(&latency_by_rate(&self.both()));
        body.push_str(&answers_by_rate(&self.both()));
        body.push_str("</div>\n<section><h2>p99</h2>\n<table class=\"short\">\n");
        body.push_str("<tr><th>rate/s</th><th>old</th><th>new</th><th>new/old</th></tr>\n");
        for [rate, cells @ ..] in self.rows() {
            let cells = cells.map(|cell| format!("<td>{}</td>", escape(&cell))).concat();
            let _ = writeln!(body, "<tr><th>{}</th>{cells}</tr>", escape(&rate));
        }
        body.push_str("</table></section>\n");
        page("saltecho load sweeps", &body)
    }
}

/// The name of a line, if there is more than one of its kind.
fn named(figure: &str, which: &str) -> String {
    format!("{figure} {which}").trim_end().to_owned()
}

fn rates(sweeps: &[(&str, &SweepReport)]) -> Axis {
    Axis::from_zero(sweeps.iter().map(|(_, sweep)| sweep.highest()).max().unwrap_or(1), "")
}

/// The lines of one sweep have two colors; of two sweeps, the old one is dashed.
fn latency_by_rate(sweeps: &[(&str, &SweepReport)]) -> String {
    let title = "Latency by rate";
    let mut lines = Vec::new();
    for (which, sweep) in sweeps {
        for (figure, color, time) in [
            ("p99", 1, (|rate| rate.times.p99_ns) as fn(&RateReport) -> u64),
            ("p50", 0, |rate| rate.times.p50_ns),
        ] {
            let points = sweep.points(|rate| rate.is_usable().then(|| time(rate)));
            let (name, dashed) = (named(figure, which), *which == "old");
            lines.push(Line { name, color, dashed, points });
        }
    }
    if lines.iter().all(|line| line.points.iter().all(Option::is_none)) {
        return absent(title, "At every rate the generator was late, or the rate above capacity.");
    }
    for (which, sweep) in sweeps {
        let slo = sweep.slo.iter().filter(|_| *which != "old");
        lines.extend(slo.map(|slo| Line {
            name: named(&slo.text, which),
            color: 3,
            dashed: true,
            points:
                [0, sweep.highest()].map(|rate| Some((rate as f64, slo.limit_ns as f64))).to_vec(),
        }));
    }
    latency_chart(rates(sweeps), &lines).finish(title)
}

fn answers_by_rate(sweeps: &[(&str, &SweepReport)]) -> String {
    let all = sweeps.iter().flat_map(|(_, sweep)| &sweep.rates);
    let most = all.map(|rate| rate.answered_per_s.max(rate.rate_per_s)).max().unwrap_or(1);
    let mut chart = Chart::new(rates(sweeps), Axis::from_zero(most, ""));
    for (which, sweep) in sweeps {
        let (name, dashed) = (named("answered", which), *which == "old");
        let points = sweep.points(|rate| rate.within().1.gt(&0).then_some(rate.answered_per_s));
        chart.line(&Line { name, color: 2, dashed, points });
    }
    chart.finish("Answers per second by rate")
}
