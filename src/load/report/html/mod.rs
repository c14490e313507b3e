//! A report, or two side by side, as one page that needs nothing else: no network, no script, no
//! font.

mod chart;
mod compare;

use std::fmt::Write;
use std::time::Duration;

use chart::{Axis, Chart, Line};

use super::figures::{Grouped, Nanos, Percentiles, QUANTILES};
use super::{Generator, Report, Second, Verdict, Visible, rate};
use crate::load::{Mode, Part, Series};

const STYLE: &str = include_str!("style.css");

/// More seconds than this are drawn, but cannot be pointed at: the page would grow by megabytes.
const MOST_TITLES: usize = 900;

impl Report {
    /// The report as one HTML page with its charts. Whatever came from outside is escaped.
    pub fn to_html(&self) -> String {
        let mut body = self.judgement();
        match &self.generators[..] {
            [one] => body.push_str(&one.lines()),
            _ => paragraph(&mut body, "sum", &format!("{}.", self.sum_line().unwrap_or_default())),
        }
        body.push_str(&self.big_figures());
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
        body.push_str(&self.phase_table());
        body.push_str(&self.error_table());
        if self.is_sum() {
            let each = self.each();
            let _ = writeln!(
                body,
                "<section><h2>Generators</h2>\n<div class=\"pair\">\n{each}</div></section>"
            );
        }
        page("saltecho load report", &body)
    }

    /// The verdict, and what a reader must know before they believe a figure.
    fn judgement(&self) -> String {
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

    /// Each generator under its name.
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
            .phases()
            .map(|(series, _)| Line {
                name: series.as_str().to_owned(),
                colour: series_colour(series),
                dashed: series == Series::Service,
                points: self.percentile_points(series),
            })
            .collect();
        if lines.is_empty() {
            return absent(title, "Nothing was timed.");
        }
        let most = self.phases().map(|(_, percentiles)| percentiles.n).max().unwrap_or(0);
        latency_chart(Axis::quantiles(most), &lines).finish(title)
    }

    /// Twenty points a decade, from the median to where one value is left.
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
        let line = |name: &str, colour, time| Line {
            name: name.to_owned(),
            colour,
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
        chart.finish(&title)
    }

    /// The percentiles of what is measured above all, of a second in which there was any.
    fn timed<'a>(&self, second: &'a Second) -> Option<&'a Percentiles> {
        Some(second.percentiles(self.headline())).filter(|time| time.n > 0)
    }

    /// One of those percentiles over time.
    fn latency_points(&self, time: fn(&Percentiles) -> u64) -> Vec<Option<(f64, f64)>> {
        self.points(|second| Some(time(self.timed(second)?) as f64))
    }

    /// One point for each second. Where seconds are missing between two logs, so is the line.
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
        chart.line(&Line { name: what.to_owned(), colour: 2, dashed: false, points });
        self.titles(&mut chart, |second| {
            self.rate_in(second).map(|rate| format!("{} a second", Grouped(rate)))
        });
        chart.finish(title)
    }

    /// What is counted over time, as a heading and as a word.
    fn rate_names(&self) -> (&'static str, &'static str) {
        match self.mode() {
            Mode::Idle => ("Authenticated a second", "authenticated"),
            Mode::Echo | Mode::Connect => ("Answers a second", "answered"),
        }
    }

    fn rate_points(&self) -> Vec<Option<(f64, f64)>> {
        self.points(|second| self.rate_in(second).map(|rate| rate as f64))
    }

    fn highest_rate(&self) -> Option<u64> {
        self.seconds.iter().filter_map(|second| self.rate_in(second)).max()
    }

    /// The rate in a second; what is left of one says nothing of a rate.
    fn rate_in(&self, second: &Second) -> Option<u64> {
        let is_idle = self.mode() == Mode::Idle;
        let counts = &second.counts;
        let number = if is_idle { counts.authenticated } else { counts.answered };
        let counts_here = second.part == Part::Measure || is_idle;
        (counts_here && second.length.as_millis() >= 100).then(|| rate(number, second.length))
    }

    fn states_over_time(&self) -> String {
        let title = "Connections by state";
        let standing: Vec<_> =
            self.seconds.iter().map(|second| second.standing.by_name()).collect();
        let total = |states: &[(&str, usize)]| {
            states.iter().fold(0, |total: usize, state| total.saturating_add(state.1))
        };
        let most = standing.iter().map(|states| total(states)).max().unwrap_or(0);
        if most == 0 {
            return absent(title, "How the connections stood is not known.");
        }
        let mut chart = Chart::new(Axis::seconds(self.end()), Axis::from_zero(most as u64, ""));
        for state in 0..6 {
            let mut steps = Vec::with_capacity(self.seconds.len());
            let mut end = Duration::ZERO;
            for (second, states) in self.seconds.iter().zip(&standing) {
                let from = second.start.as_secs_f64();
                if second.start > end {
                    steps.push((end.as_secs_f64(), from, 0.0, 0.0));
                }
                end = second.start + second.length;
                let (below, above) = (total(&states[..state]), total(&states[..=state]));
                steps.push((from, end.as_secs_f64(), below as f64, above as f64));
            }
            if standing.iter().any(|states| states[state].1 > 0) {
                chart.area(standing[0][state].0, STATE_COLOURS[state], &steps);
            }
        }
        self.titles(&mut chart, |second| {
            let states = second.standing.by_name().into_iter().filter(|state| state.1 > 0);
            let states = states.map(|(name, number)| format!("{} {name}", Grouped(number as u64)));
            Some(states.collect::<Vec<_>>().join(", "))
        });
        chart.finish(title)
    }

    /// Says at each second what is known of it.
    fn titles(&self, chart: &mut Chart, tell: impl Fn(&Second) -> Option<String>) {
        if self.seconds.len() > MOST_TITLES {
            return;
        }
        for second in &self.seconds {
            if let Some(told) = tell(second) {
                let from = second.start.as_secs_f64();
                let (to, part) = (from + second.length.as_secs_f64(), second.part.as_str());
                chart.hover(from, to, &format!("{from:.0} s ({part}): {told}"));
            }
        }
    }

    fn phase_table(&self) -> String {
        let mut text = String::from(
            "<section><h2>Phases</h2>\n<div class=\"wide\"><table>\n<tr><th>phase</th><th>n</th>",
        );
        for name in QUANTILES.map(|(name, _)| name).into_iter().chain(["max"]) {
            let _ = write!(text, "<th>{name}</th>");
        }
        text.push_str("</tr>\n");
        for (series, percentiles) in self.phases() {
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

    /// When the last second ended, in seconds from the beginning of the run.
    fn end(&self) -> f64 {
        self.seconds
            .iter()
            .map(|second| (second.start + second.length).as_secs_f64())
            .fold(0.0, f64::max)
    }
}

impl Generator {
    /// Its command, its plan, when and where it ran.
    fn lines(&self) -> String {
        let mut text = format!("<pre>{}</pre>\n", escape(&self.about.command_line()));
        for line in [self.what(), self.when(), self.where_from()] {
            paragraph(&mut text, "dim", &line);
        }
        text
    }
}

/// A colour for each of `Standing::by_name`; what works is blue and green.
const STATE_COLOURS: [usize; 6] = [3, 4, 1, 5, 0, 2];

/// Latency and service time are next to each other and must differ most.
const fn series_colour(series: Series) -> usize {
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

/// Lines of nanoseconds.
fn latency_chart(x: Axis, lines: &[Line]) -> Chart {
    let points = lines.iter().flat_map(|line| line.points.iter().flatten());
    let mut chart = Chart::new(x, Axis::nanos(points.map(|(_, nanos)| *nanos)));
    lines.iter().for_each(|line| chart.line(line));
    chart
}

/// A whole page around its content.
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

/// A text that no browser takes for anything but text, between tags and in attributes.
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
