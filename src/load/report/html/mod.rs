//! A report or a comparison as one HTML page, without network access, scripts or fonts.

mod chart;
mod compare;
mod sweep;

use std::fmt::Write;
use std::time::Duration;

use chart::{Axis, Chart, Line};

use super::figures::{Percentiles, QUANTILES};
use super::{Generator, Report, Second, Upgrade, Verdict, Visible, rate};
use super::{Grouped, Nanos};
use crate::load::{Mode, Phase, Series};

const STYLE: &str = include_str!("style.css");

/// Maximum number of seconds with tooltips; with more, the page would grow by megabytes.
const MOST_TITLES: usize = 900;

impl Report {
    /// The report as one HTML page with charts. Untrusted text is escaped.
    pub fn to_html(&self) -> String {
        let mut body = self.verdict_and_warnings();
        match &self.generators[..] {
            [one] => body.push_str(&one.lines()),
            _ => {
                paragraph(
                    &mut body,
                    "sum",
                    &format!("{}.", self.merged_line().unwrap_or_default()),
                );
            }
        }
        body.push_str(&self.big_figures());
        if let Some(line) = self.upgrades_line() {
            paragraph(&mut body, "dim", &format!("{line}."));
        }
        if let Some(line) = self.server_line() {
            paragraph(&mut body, "dim", &format!("{line}."));
        }
        if let Some(explanation) = self.explanation() {
            paragraph(&mut body, "explanation", &explanation);
        }
        body.push_str("<div class=\"pair\">\n");
        body.push_str(&self.by_percentile());
        body.push_str(&self.over_time());
        body.push_str(&self.rate_over_time());
        body.push_str(&self.states_over_time());
        body.push_str("</div>\n");
        body.push_str(&self.latency_table());
        body.push_str(&self.error_table());
        if self.is_merged() {
            let each = self.each();
            let _ = writeln!(
                body,
                "<section><h2>Generators</h2>\n<div class=\"pair\">\n{each}</div></section>"
            );
        }
        page("saltecho load report", &body)
    }

    /// The verdict and the warnings.
    fn verdict_and_warnings(&self) -> String {
        let mut text = String::new();
        let class = if self.verdict == Verdict::Reliable { "verdict good" } else { "verdict" };
        let verdict = self.verdict_line();
        let (word, rest) = verdict.split_once(": ").unwrap_or((&verdict, ""));
        let (word, rest) = (escape(word), escape(rest));
        let _ = writeln!(text, "<p class=\"{class}\"><b>{word}</b>: {rest}.</p>");
        for warning in &self.warnings {
            paragraph(&mut text, "warning", &format!("Warning: {warning}."));
        }
        text
    }

    /// Each generator with its name.
    fn each(&self) -> String {
        let each = |one: &Generator| {
            format!("<div><h3>{}</h3>\n{}</div>\n", escape(&one.who()), one.lines())
        };
        self.generators.iter().map(each).collect()
    }

    fn big_figures(&self) -> String {
        let headline = self.percentiles(self.headline());
        let time =
            |nanos| if headline.n == 0 { "–".to_owned() } else { Nanos(nanos).to_string() };
        let name = self.headline().as_str();
        let counts = &self.record.counts;
        let first = match self.mode() {
            Mode::Idle => ("authenticated".to_owned(), Grouped(counts.authenticated).to_string()),
            _ => (
                "answered".to_owned(),
                format!("{}/s", Grouped(self.per_second(self.record.measured.answered))),
            ),
        };
        let mut text = String::from("<dl class=\"figures\">\n");
        for (what, figure) in [
            first,
            (format!("{name} p50"), time(headline.p50_ns)),
            (format!("{name} p99"), time(headline.p99_ns)),
            (format!("{name} max"), time(headline.max_ns)),
            ("errors".to_owned(), Grouped(counts.errors.total()).to_string()),
        ] {
            let _ =
                writeln!(text, "<div><dt>{}</dt><dd>{}</dd></div>", escape(&what), escape(&figure));
        }
        text + "</dl>\n"
    }

    fn by_percentile(&self) -> String {
        let title = "Latency by percentile";
        let lines: Vec<Line> = self
            .recorded_series()
            .map(|(series, _)| Line {
                name: series.as_str().to_owned(),
                color: series_color(series),
                dashed: series == Series::Service,
                points: self.percentile_points(series),
            })
            .collect();
        if lines.is_empty() {
            return absent(title, "Nothing was timed.");
        }
        let most = self.recorded_series().map(|(_, percentiles)| percentiles.n).max().unwrap_or(0);
        latency_chart(Axis::quantiles(most), &lines).finish(title)
    }

    /// Twenty points per decade, from the median to the last value.
    fn percentile_points(&self, series: Series) -> Vec<Option<(f64, f64)>> {
        let percentiles = self.percentiles(series);
        let n = percentiles.n as f64;
        let one_in: Vec<f64> = (0..400)
            .map(|step| 2.0 * 10_f64.powf(f64::from(step) / 20.0))
            .take_while(|one_in| *one_in < n)
            .collect();
        let quantiles = one_in.iter().map(|one_in| 1.0 - 1.0 / one_in);
        let values = self.record.series(series).value_at_quantiles(quantiles);
        let points = one_in.iter().copied().zip(values.map(|nanos| nanos as f64));
        let last = (n.max(2.0), percentiles.max_ns as f64);
        points.chain([last]).map(Some).collect()
    }

    fn over_time(&self) -> String {
        let title = format!("Latency over time: {}", self.headline().as_str());
        let line = |name: &str, color, time| Line {
            name: name.to_owned(),
            color,
            dashed: false,
            points: self.latency_points(time),
        };
        let lines = [
            line("max", 1, |timed| timed.max_ns),
            line("p99", 4, |timed| timed.p99_ns),
            line("p50", 0, |timed| timed.p50_ns),
        ];
        if lines[0].points.iter().all(Option::is_none) {
            return absent(&title, "Nothing was timed.");
        }
        let mut chart = latency_chart(Axis::seconds(self.end()), &lines);
        self.titles(&mut chart, |second| {
            let time = self.timed(second)?;
            let [p50, p99, max] = [time.p50_ns, time.p99_ns, time.max_ns].map(Nanos);
            Some(format!("p50 {p50}, p99 {p99}, max {max}"))
        });
        self.mark_upgrades(&mut chart);
        chart.finish(&title)
    }

    /// The percentiles of the main series in a second, if it has values.
    fn timed<'a>(&self, second: &'a Second) -> Option<&'a Percentiles> {
        Some(second.percentiles(self.headline())).filter(|time| time.n > 0)
    }

    /// A percentile of the main series over time.
    fn latency_points(&self, time: fn(&Percentiles) -> u64) -> Vec<Option<(f64, f64)>> {
        self.points(|second| Some(time(self.timed(second)?) as f64))
    }

    /// One point per second. The line is interrupted where seconds are missing between logs.
    fn points(&self, value: impl Fn(&Second) -> Option<f64>) -> Vec<Option<(f64, f64)>> {
        let mut points = Vec::with_capacity(self.seconds.len());
        let mut end = Duration::ZERO;
        for second in &self.seconds {
            if second.start > end {
                points.push(None);
            }
            end = second.start + second.length;
            points.push(value(second).map(|value| (middle(second), value)));
        }
        points
    }

    fn rate_over_time(&self) -> String {
        let (title, what) = self.rate_names();
        let Some(most) = self.highest_rate() else {
            return absent(title, "No second was measured.");
        };
        let mut chart = Chart::new(Axis::seconds(self.end()), Axis::from_zero(most, ""));
        let points = self.rate_points();
        chart.line(&Line { name: what.to_owned(), color: 2, dashed: false, points });
        self.titles(&mut chart, |second| {
            self.rate_in(second).map(|rate| format!("{}/s", Grouped(rate)))
        });
        self.mark_upgrades(&mut chart);
        chart.finish(title)
    }

    /// Heading and name of the rate over time.
    fn rate_names(&self) -> (&'static str, &'static str) {
        match self.mode() {
            Mode::Idle => ("Authenticated per second", "authenticated"),
            Mode::Echo | Mode::Connect => ("Answers per second", "answered"),
        }
    }

    fn rate_points(&self) -> Vec<Option<(f64, f64)>> {
        self.points(|second| self.rate_in(second).map(|rate| rate as f64))
    }

    fn highest_rate(&self) -> Option<u64> {
        self.seconds.iter().filter_map(|second| self.rate_in(second)).max()
    }

    /// The rate in a second; a fraction of less than 100 ms has none.
    fn rate_in(&self, second: &Second) -> Option<u64> {
        let is_idle = self.mode() == Mode::Idle;
        let counts = &second.counts;
        let number = if is_idle { counts.authenticated } else { counts.answered };
        let counts_here = second.phase == Phase::Measure || is_idle;
        (counts_here && second.length.as_millis() >= 100).then(|| rate(number, second.length))
    }

    fn states_over_time(&self) -> String {
        let title = "Connections by state";
        let by_second: Vec<_> = self.seconds.iter().map(|second| second.states.by_name()).collect();
        let total = |states: &[(&str, usize)]| {
            states.iter().fold(0, |total: usize, state| total.saturating_add(state.1))
        };
        let most = by_second.iter().map(|states| total(states)).max().unwrap_or(0);
        if most == 0 {
            return absent(title, "Connection states are unknown.");
        }
        let mut chart = Chart::new(Axis::seconds(self.end()), Axis::from_zero(most as u64, ""));
        for state in 0..6 {
            let mut steps = Vec::with_capacity(self.seconds.len());
            let mut end = Duration::ZERO;
            for (second, states) in self.seconds.iter().zip(&by_second) {
                let from = second.start.as_secs_f64();
                if second.start > end {
                    steps.push((end.as_secs_f64(), from, 0.0, 0.0));
                }
                end = second.start + second.length;
                let (below, above) = (total(&states[..state]), total(&states[..=state]));
                steps.push((from, end.as_secs_f64(), below as f64, above as f64));
            }
            if by_second.iter().any(|states| states[state].1 > 0) {
                chart.area(by_second[0][state].0, STATE_COLOURS[state], &steps);
            }
        }
        self.titles(&mut chart, |second| {
            let states = second.states.by_name().into_iter().filter(|state| state.1 > 0);
            let states = states.map(|(name, number)| format!("{} {name}", Grouped(number as u64)));
            Some(states.collect::<Vec<_>>().join(", "))
        });
        self.mark_upgrades(&mut chart);
        chart.finish(title)
    }

    /// Adds a tooltip to each second.
    fn titles(&self, chart: &mut Chart, describe: impl Fn(&Second) -> Option<String>) {
        if self.seconds.len() > MOST_TITLES {
            return;
        }
        for second in &self.seconds {
            if let Some(text) = describe(second) {
                let from = second.start.as_secs_f64();
                let (to, phase) = (from + second.length.as_secs_f64(), second.phase.as_str());
                chart.hover(from, to, &format!("{from:.0} s ({phase}): {text}"));
            }
        }
    }

    /// Marks the moments at which another process of the server took over.
    fn mark_upgrades(&self, chart: &mut Chart) {
        let marks = self.upgrades.iter().map(|upgrade| {
            let Upgrade { at, generation, .. } = upgrade;
            (at.as_secs_f64(), format!("generation {generation}"), upgrade.to_string())
        });
        chart.marks("upgrade of the server", &marks.collect::<Vec<_>>());
    }

    fn latency_table(&self) -> String {
        let mut text = String::from(
            "<section><h2>Latency</h2>\n<div class=\"wide\"><table>\n<tr><th>series</th><th>n</th>",
        );
        for name in QUANTILES.map(|(name, _)| name).into_iter().chain(["max"]) {
            let _ = write!(text, "<th>{name}</th>");
        }
        text.push_str("</tr>\n");
        for (series, percentiles) in self.recorded_series() {
            let _ =
                write!(text, "<tr><th>{}</th><td>{}</td>", series.as_str(), Grouped(percentiles.n));
            for (_, nanos) in percentiles.by_name() {
                let _ = write!(text, "<td>{}</td>", Nanos(nanos));
            }
            text.push_str("</tr>\n");
        }
        text + "</table></div></section>\n"
    }

    fn error_table(&self) -> String {
        let errors = &self.record.counts.errors;
        if errors.total() == 0 {
            return absent("Errors", "None.");
        }
        let mut text = String::from("<section><h2>Errors</h2>\n<table class=\"short\">\n");
        for (kind, number) in errors.occurred() {
            let _ =
                writeln!(text, "<tr><th>{}</th><td>{}</td></tr>", kind.as_str(), Grouped(number));
        }
        text + "</table></section>\n"
    }

    /// The end of the last second, in seconds from the start of the run.
    fn end(&self) -> f64 {
        self.seconds
            .iter()
            .map(|second| (second.start + second.length).as_secs_f64())
            .fold(0.0, f64::max)
    }
}

impl Generator {
    /// Its command, plan, times and machine.
    fn lines(&self) -> String {
        let mut text = format!("<pre>{}</pre>\n", escape(&self.program.command_line()));
        for line in [self.what(), self.when(), self.where_from()] {
            paragraph(&mut text, "dim", &line);
        }
        text
    }
}

/// A color for each state in `StateCounts::by_name`; quiet and busy are blue and green.
const STATE_COLOURS: [usize; 6] = [3, 4, 1, 5, 0, 2];

/// Latency and service time are next to each other, so their colors must differ most.
const fn series_color(series: Series) -> usize {
    match series {
        Series::Echo | Series::Cycle => 0,
        Series::Service => 1,
        Series::Lateness => 2,
        Series::Connect => 3,
        Series::Auth => 4,
    }
}

fn middle(second: &Second) -> f64 {
    (second.start + second.length / 2).as_secs_f64()
}

/// A chart of lines of nanoseconds.
fn latency_chart(x: Axis, lines: &[Line]) -> Chart {
    let points = lines.iter().flat_map(|line| line.points.iter().flatten());
    let mut chart = Chart::new(x, Axis::nanos(points.map(|(_, nanos)| *nanos)));
    lines.iter().for_each(|line| chart.line(line));
    chart
}

/// Wraps content in a complete page.
fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         {body}</body>\n</html>\n"
    )
}

fn absent(title: &str, why: &str) -> String {
    format!("<section><h2>{}</h2>\n<p>{}</p></section>\n", escape(title), escape(why))
}

fn paragraph(to: &mut String, class: &str, text: &str) {
    let _ = writeln!(to, "<p class=\"{class}\">{}</p>", escape(text));
}

/// Escapes a text for use between tags and in attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in Visible(text).to_string().chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
