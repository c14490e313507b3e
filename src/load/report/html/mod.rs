//! A report as one page that needs nothing else: no network, no script, no font.

mod chart;

use std::fmt::Write;

use chart::{Axis, Chart, Line};

use super::figures::{Grouped, Nanos, Percentiles, QUANTILES};
use super::{Report, Second, Verdict, rate};
use crate::load::{Mode, Part, Series};

const STYLE: &str = include_str!("style.css");

/// More seconds than this are drawn, but cannot be pointed at: the page would grow by megabytes.
const MOST_TITLES: usize = 900;

impl Report {
    /// The report as one HTML page with its charts. Whatever came from outside is escaped.
    pub fn to_html(&self) -> String {
        let mut page = String::from(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <title>saltecho load report</title>\n<style>\n",
        );
        page.push_str(STYLE);
        page.push_str("</style>\n</head>\n<body>\n<h1>saltecho load report</h1>\n");
        page.push_str(&self.head());
        page.push_str(&self.big_figures());
        if let Some(line) = self.server_line() {
            paragraph(&mut page, "dim", &format!("{line}."));
        }
        if let Some(explanation) = self.explanation() {
            paragraph(&mut page, "explanation", &explanation);
        }
        page.push_str("<div class=\"pair\">\n");
        page.push_str(&self.by_percentile());
        page.push_str(&self.over_time());
        page.push_str(&self.rate_over_time());
        page.push_str(&self.states_over_time());
        page.push_str("</div>\n");
        page.push_str(&self.phase_table());
        page.push_str(&self.error_table());
        page.push_str("</body>\n</html>\n");
        page
    }

    fn head(&self) -> String {
        let mut text = String::new();
        let class = if self.verdict == Verdict::Reliable { "verdict good" } else { "verdict" };
        let verdict = self.verdict_line();
        let (word, rest) = verdict.split_once(": ").unwrap_or((&verdict, ""));
        let (word, rest) = (escape(word), escape(rest));
        let _ = writeln!(text, "<p class=\"{class}\"><b>{word}</b>: {rest}.</p>");
        for warning in &self.warnings {
            paragraph(&mut text, "warning", &format!("Warning: {warning}."));
        }
        for generator in &self.generators {
            let _ = writeln!(text, "<pre>{}</pre>", escape(&generator.about.command_line()));
            paragraph(&mut text, "dim", &generator.what());
            paragraph(&mut text, "dim", &generator.when());
            let where_from = format!("{}; {}", generator.about.program(), generator.machine.line());
            paragraph(&mut text, "dim", &where_from);
        }
        text
    }

    fn big_figures(&self) -> String {
        let headline = self.percentiles(self.headline());
        let time =
            |nanos| if headline.n == 0 { "–".to_owned() } else { Nanos(nanos).to_string() };
        let name = self.headline().as_str();
        let counts = &self.record.counts;
        let first = match self.mode() {
            Mode::Idle => ("authenticated".to_owned(), Grouped(counts.authenticated).to_string()),
            _ => {
                ("answered".to_owned(), format!("{}/s", Grouped(self.per_second(counts.answered))))
            }
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
            .map(|(series, percentiles)| self.percentile_line(series, &percentiles))
            .collect();
        if lines.is_empty() {
            return absent(title, "Nothing was timed.");
        }
        let most = self.phases().map(|(_, percentiles)| percentiles.n).max().unwrap_or(0);
        let values =
            lines.iter().flat_map(|line| line.points.iter().flatten().map(|point| point.1));
        let mut chart = Chart::new(Axis::quantiles(most), Axis::nanos(values));
        lines.iter().for_each(|line| chart.line(line));
        chart.finish(title)
    }

    fn percentile_line(&self, series: Series, percentiles: &Percentiles) -> Line {
        // Twenty points a decade, from the median to where one value is left.
        let n = percentiles.n as f64;
        let one_in: Vec<f64> = (0..400)
            .map(|step| 2.0 * 10_f64.powf(f64::from(step) / 20.0))
            .take_while(|one_in| *one_in < n)
            .collect();
        let quantiles = one_in.iter().map(|one_in| 1.0 - 1.0 / one_in);
        let values = self.record.series(series).value_at_quantiles(quantiles);
        let points = one_in.iter().copied().zip(values.map(|nanos| nanos as f64));
        let last = (n.max(2.0), percentiles.max_ns as f64);
        Line {
            name: series.as_str().to_owned(),
            colour: series_colour(series),
            dashed: series == Series::Service,
            points: points.chain([last]).map(Some).collect(),
        }
    }

    fn over_time(&self) -> String {
        let series = self.headline();
        let title = format!("Latency over time: {}", series.as_str());
        let timed = |second: &Second| Some(*second.percentiles(series)).filter(|time| time.n > 0);
        let all: Vec<Percentiles> = self.seconds.iter().filter_map(timed).collect();
        if all.is_empty() {
            return absent(&title, "Nothing was timed.");
        }
        let ends = all.iter().flat_map(|time| [time.p50_ns as f64, time.max_ns as f64]);
        let mut chart = Chart::new(Axis::seconds(self.end()), Axis::nanos(ends));
        let named = |time: Percentiles, name| {
            let times = time.by_name().into_iter();
            times.filter(|time| time.0 == name).map(|time| time.1 as f64).next()
        };
        for (name, colour) in [("max", 1), ("p99", 4), ("p50", 0)] {
            let point = |second: &Second| Some((middle(second), named(timed(second)?, name)?));
            let points = self.seconds.iter().map(point).collect();
            chart.line(&Line { name: name.to_owned(), colour, dashed: false, points });
        }
        self.titles(&mut chart, |second| {
            let time = timed(second)?;
            let [p50, p99, max] = [time.p50_ns, time.p99_ns, time.max_ns].map(Nanos);
            Some(format!("p50 {p50}, p99 {p99}, max {max}"))
        });
        chart.finish(&title)
    }

    fn rate_over_time(&self) -> String {
        let (title, what) = match self.mode() {
            Mode::Idle => ("Authenticated a second", "authenticated"),
            _ => ("Answers a second", "answered"),
        };
        let per_second = |second: &Second| {
            let counts = &second.counts;
            let number =
                if self.mode() == Mode::Idle { counts.authenticated } else { counts.answered };
            // What is left of a second says nothing of a rate.
            let counts_here = second.part == Part::Measure || self.mode() == Mode::Idle;
            (counts_here && second.length.as_millis() >= 100).then(|| rate(number, second.length))
        };
        let Some(most) = self.seconds.iter().filter_map(per_second).max() else {
            return absent(title, "No second was measured.");
        };
        let mut chart = Chart::new(Axis::seconds(self.end()), Axis::from_zero(most, ""));
        let point = |second: &Second| per_second(second).map(|rate| (middle(second), rate as f64));
        let points = self.seconds.iter().map(point).collect();
        chart.line(&Line { name: what.to_owned(), colour: 2, dashed: false, points });
        self.titles(&mut chart, |second| {
            per_second(second).map(|rate| format!("{} a second", Grouped(rate)))
        });
        chart.finish(title)
    }

    fn states_over_time(&self) -> String {
        let title = "Connections by state";
        let standing: Vec<_> =
            self.seconds.iter().map(|second| second.standing.by_name()).collect();
        let total = |states: &[(&str, usize); 6]| states.iter().map(|state| state.1).sum::<usize>();
        let most = standing.iter().map(total).max().unwrap_or(0);
        if most == 0 {
            return absent(title, "How the connections stood is not known.");
        }
        let mut chart = Chart::new(Axis::seconds(self.end()), Axis::from_zero(most as u64, ""));
        for state in 0..6 {
            let steps: Vec<_> = self
                .seconds
                .iter()
                .zip(&standing)
                .map(|(second, states)| {
                    let below: usize = states[..state].iter().map(|state| state.1).sum();
                    let from = second.start.as_secs_f64();
                    let to = from + second.length.as_secs_f64();
                    (from, to, below as f64, (below + states[state].1) as f64)
                })
                .collect();
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

fn absent(title: &str, why: &str) -> String {
    format!("<section><h2>{}</h2>\n<p>{}</p></section>\n", escape(title), escape(why))
}

fn paragraph(to: &mut String, class: &str, text: &str) {
    let _ = writeln!(to, "<p class=\"{class}\">{}</p>", escape(text));
}

/// A text that no browser takes for anything but text, between tags and in attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
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
