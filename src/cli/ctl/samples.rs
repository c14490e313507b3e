//! The figures of a scrape, from Prometheus' text format 0.0.4 as the admin endpoint sends it.

use serde::{Serialize, Serializer};
use serde_json::Number;

/// Labels with their values.
type Labels = Vec<(String, String)>;

/// A figure: a metric with one value for each of its labels.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    pub(super) name: String,
    #[serde(serialize_with = "as_object")]
    pub(super) labels: Labels,
    #[serde(flatten)]
    pub(super) value: FigureValue,
}

/// The value of a figure.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum FigureValue {
    /// A counter or a gauge.
    Number { value: Number },
    /// A histogram.
    Times(Times),
}

/// A histogram of times in seconds.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Times {
    pub(super) count: u64,
    sum: f64,
    /// The upper bound of the bucket that has the median.
    pub(super) p50: Bound,
    /// The same of the 99th percentile.
    pub(super) p99: Bound,
    /// Each bucket's upper bound and the number of times below it, in ascending order.
    #[serde(skip)]
    buckets: Vec<(f64, u64)>,
}

/// The upper bound of a quantile in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Bound {
    /// There are no times.
    #[default]
    None,
    AtMost(f64),
    /// It is beyond the last bucket with a bound, which is this.
    Above(f64),
}

/// A bound as a number, and null where there is none.
impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AtMost(seconds) => serializer.serialize_f64(*seconds),
            Self::None | Self::Above(_) => serializer.serialize_none(),
        }
    }
}

fn as_object<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(name, value)| (name, value)))
}

/// The figures of a scrape, in its order. Lines of an unknown form are skipped.
pub(super) fn figures(text: &str) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    let mut histogram = None;
    for line in text.lines() {
        if let Some(metric) = line.strip_prefix("# TYPE ") {
            histogram = metric.strip_suffix(" histogram");
            continue;
        }
        let Some((name, mut labels, value)) = sample(line) else { continue };
        let part = histogram.and_then(|metric| Some((metric, name.strip_prefix(metric)?)));
        let Some((metric, part)) = part else {
            let value = FigureValue::Number { value };
            figures.push(Figure { name: name.to_owned(), labels, value });
            continue;
        };
        let bound = labels.iter().position(|(name, _)| name == "le");
        let bound = bound.map(|index| labels.remove(index).1);
        let is_known = |figure: &Figure| figure.name == metric && figure.labels == labels;
        let index = figures.iter().position(is_known).unwrap_or(figures.len());
        if index == figures.len() {
            let value = FigureValue::Times(Times::default());
            figures.push(Figure { name: metric.to_owned(), labels, value });
        }
        if let FigureValue::Times(times) = &mut figures[index].value {
            times.add(part, bound.and_then(|bound| bound.parse().ok()), &value);
        }
    }
    for figure in &mut figures {
        if let FigureValue::Times(times) = &mut figure.value {
            (times.p50, times.p99) = (times.quantile(50), times.quantile(99));
        }
    }
    figures
}

impl Times {
    /// Adds a sample whose name has this ending.
    fn add(&mut self, part: &str, bound: Option<f64>, value: &Number) {
        match (part, bound) {
            ("_bucket", Some(bound)) => {
                self.buckets.push((bound, value.as_u64().unwrap_or_default()));
            }
            ("_count", _) => self.count = value.as_u64().unwrap_or_default(),
            ("_sum", _) => self.sum = value.as_f64().unwrap_or_default(),
            _ => {}
        }
    }

    fn quantile(&self, percent: u64) -> Bound {
        if self.count == 0 {
            return Bound::None;
        }
        let rank = u128::from(self.count) * u128::from(percent);
        let has_it = |(_, below): &&(f64, u64)| u128::from(*below) * 100 >= rank;
        match self.buckets.iter().find(has_it) {
            Some((bound, _)) if bound.is_finite() => Bound::AtMost(*bound),
            _ => {
                let finite = self.buckets.iter().map(|(bound, _)| *bound);
                Bound::Above(finite.filter(|bound| bound.is_finite()).fold(0.0, f64::max))
            }
        }
    }
}

/// Takes a line like `name{label="value"} 1` apart.
fn sample(line: &str) -> Option<(&str, Labels, Number)> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = unquoted(quoted)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
        rest = &rest[1..];
    }
    Some((name, labels, rest.trim().parse().ok()?))
}

/// The text up to its closing quote without escapes, and what follows the quote.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_a_figure() {
        let text = "# HELP a A.\n# TYPE a counter\na{key=\"odd\\\"\\\\\\n\",x=\"}\"} 18446744073709551615\n\
                    b 1.5\nc NaN\nd{\n";
        let json = |figure: &Figure| serde_json::to_string(figure).unwrap();
        let shown: Vec<String> = figures(text).iter().map(json).collect();
        assert_eq!(
            shown,
            [
                r#"{"name":"a","labels":{"key":"odd\"\\\n","x":"}"},"value":18446744073709551615}"#,
                r#"{"name":"b","labels":{},"value":1.5}"#,
            ]
        );
    }

    #[test]
    fn a_histogram_is_one_figure_with_its_quantiles() {
        let figure = |below: [u64; 3]| {
            let [one, two, all] = below;
            let text = format!(
                "# TYPE t histogram\nt_sum{{w=\"1\"}} 0.5\nt_count{{w=\"1\"}} {all}\n\
                 t_bucket{{le=\"0.001\",w=\"1\"}} {one}\nt_bucket{{le=\"0.004\",w=\"1\"}} {two}\n\
                 t_bucket{{le=\"+Inf\",w=\"1\"}} {all}\n"
            );
            let mut figures = figures(&text);
            assert_eq!(figures.len(), 1);
            let figure = figures.remove(0);
            assert_eq!((figure.name.as_str(), figure.labels.len()), ("t", 1));
            let FigureValue::Times(times) = figure.value else { panic!("it is a histogram") };
            (times.p50, times.p99)
        };
        assert_eq!(figure([0, 0, 0]), (Bound::None, Bound::None));
        assert_eq!(figure([1, 1, 1]), (Bound::AtMost(0.001), Bound::AtMost(0.001)));
        assert_eq!(figure([50, 99, 100]), (Bound::AtMost(0.001), Bound::AtMost(0.004)));
        assert_eq!(figure([49, 98, 100]), (Bound::AtMost(0.004), Bound::Above(0.004)));
    }
}
