//! A comparison as an HTML page.

use std::fmt::Write;

use super::chart::{Axis, Chart, Line};
use super::{absent, latency_chart, page, paragraph};
use crate::load::Series;
use crate::load::report::compare::{COLUMNS, SIGNIFICANCE};
use crate::load::report::{Comparison, Percentiles, Report};

impl Comparison<'_> {
    /// Both reports and their ratios as one HTML page with charts. Untrusted text is escaped.
    pub fn to_html(&self) -> String {
        let mut body = String::from("<div class=\"pair\">\n");
        for (which, report) in [("Old", self.old), ("New", self.new)] {
            let _ = writeln!(body, "<section><h2>{which}</h2>\n{}", report.verdict_and_warnings());
            if let Some(line) = report.merged_line() {
                paragraph(&mut body, "sum", &format!("{line}."));
            }
            body.push_str(&report.each());
            body.push_str("</section>\n");
        }
        body.push_str("</div>\n");
        if let Some(difference) = self.difference() {
            paragraph(&mut body, "warning", difference);
        }
        paragraph(&mut body, "explanation", SIGNIFICANCE);
        body.push_str("<div class=\"pair\">\n");
        let latency = |report: &Report| report.headline();
        body.push_str(&self.by_percentile("Latency by percentile", latency));
        body.push_str(&self.by_percentile("Service time by percentile", |_| Series::Service));
        body.push_str(&self.p99_over_time());
        body.push_str(&self.rate_over_time());
        body.push_str("</div>\n");
        body.push_str(&self.tables());
        page("saltecho load comparison", &body)
    }

    /// The lines of both reports that have points. The old one is dashed.
    fn lines(&self, points: impl Fn(&Report) -> Vec<Option<(f64, f64)>>) -> Vec<Line> {
        let line = |(which, report): (&str, &Report)| Line {
            name: which.to_owned(),
            color: if which == "old" { 1 } else { 0 },
            dashed: which == "old",
            points: points(report),
        };
        let lines = self.both().map(line).into_iter();
        lines.filter(|line| line.points.iter().any(Option::is_some)).collect()
    }

    fn by_percentile(&self, title: &str, series: impl Fn(&Report) -> Series) -> String {
        let lines = self.lines(|report| match report.percentiles(series(report)).n {
            0 => Vec::new(),
            _ => report.percentile_points(series(report)),
        });
        if lines.is_empty() {
            return absent(title, "Nothing was timed.");
        }
        let most = self.both().map(|(_, report)| report.percentiles(series(report)).n);
        latency_chart(Axis::quantiles(most[0].max(most[1])), &lines).finish(title)
    }

    fn p99_over_time(&self) -> String {
        let title = "Latency over time: p99";
        let lines = self.lines(|report| report.latency_points(|time: &Percentiles| time.p99_ns));
        if lines.is_empty() {
            return absent(title, "Nothing was timed.");
        }
        latency_chart(Axis::seconds(self.end()), &lines).finish(title)
    }

    fn rate_over_time(&self) -> String {
        let (title, _) = self.new.rate_names();
        let rates = self.both().into_iter().filter_map(|(_, report)| report.highest_rate());
        let Some(most) = rates.max() else {
            return absent(title, "No second was measured.");
        };
        let mut chart = Chart::new(Axis::seconds(self.end()), Axis::from_zero(most, ""));
        self.lines(Report::rate_points).iter().for_each(|line| chart.line(line));
        chart.finish(title)
    }

    fn end(&self) -> f64 {
        self.old.end().max(self.new.end())
    }

    /// A table per group: the figures of both reports, and their ratios.
    fn tables(&self) -> String {
        let mut text = String::from("<section><h2>Figures</h2>\n");
        for (group, rows) in self.groups() {
            let names = rows.iter().map(|row| format!("<th>{}</th>", row.name)).collect::<String>();
            let class = if rows.len() > 2 { "block" } else { "short" };
            let _ = writeln!(
                text,
                "<div class=\"wide\"><table class=\"{class}\">\n<tr><th>{group}</th>{names}</tr>"
            );
            for (column, name) in COLUMNS.into_iter().enumerate() {
                let figures = rows.iter().map(|row| format!("<td>{}</td>", row.figures[column]));
                let figures = figures.collect::<String>();
                let _ = writeln!(text, "<tr><th>{name}</th>{figures}</tr>");
            }
            text.push_str("</table></div>\n");
        }
        text + "</section>\n"
    }
}
