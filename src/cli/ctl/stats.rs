//! The metrics as a table for people.

use std::time::{Duration, UNIX_EPOCH};

use saltecho::load::report::Visible;

use super::samples::{Bound, Figure, FigureValue, Times};

/// The label of figures that each loop has.
const WORKER: &str = "worker";

/// A line for each metric: the values of its labels that are not zero, or those of each worker side
/// by side.
pub(super) fn table(figures: &[Figure]) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    for metric in figures.chunk_by(|one, next| one.name == next.name) {
        let title = title(&metric[0].name);
        match &metric[0].value {
            FigureValue::Times(_) => {
                let of = |bound: fn(&Times) -> Bound| {
                    let times = metric.iter().filter_map(|figure| match &figure.value {
                        FigureValue::Times(times) => Some(shown_bound(bound(times))),
                        FigureValue::Number { .. } => None,
                    });
                    times.collect::<Vec<_>>().join(", ")
                };
                lines.push((format!("{title} p50"), of(|times| times.p50)));
                lines.push((format!("{title} p99"), of(|times| times.p99)));
            }
            FigureValue::Number { .. } => lines.push((title, numbers(metric))),
        }
    }
    let width = lines.iter().map(|(title, _)| title.chars().count()).max().unwrap_or(0);
    let line = |(title, value): &(String, String)| {
        format!("{:<width$}  {}\n", Visible(title).to_string(), Visible(value))
    };
    lines.iter().map(line).collect()
}

/// The name of a metric without what its value shows: `queue wait`.
fn title(name: &str) -> String {
    let name = name.strip_prefix("saltecho_").unwrap_or(name);
    let name =
        ["_total", "_info"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let name = name.strip_suffix("_seconds").unwrap_or(name);
    name.replace('_', " ")
}

/// The numbers of one metric in one line.
fn numbers(metric: &[Figure]) -> String {
    let is_by_worker = |figure: &Figure| figure.labels.iter().all(|(label, _)| label == WORKER);
    if metric[0].name.ends_with("_info") {
        let labels = metric.iter().flat_map(|figure| &figure.labels);
        let labels: Vec<String> = labels.map(|(label, value)| format!("{label} {value}")).collect();
        return labels.join(", ");
    }
    let mut values: Vec<String> = Vec::new();
    for figure in metric {
        let value = shown_number(figure);
        if is_by_worker(figure) {
            values.push(value);
        } else if value != "0" {
            let labels = figure.labels.iter().map(|(_, value)| value.as_str());
            let labels: Vec<&str> = labels.filter(|value| !value.is_empty()).collect();
            values.push(format!("{value} {}", labels.join(" ")));
        }
    }
    if values.is_empty() { "0".to_owned() } else { values.join(", ") }
}

fn shown_number(figure: &Figure) -> String {
    let FigureValue::Number { value } = &figure.value else { return "-".to_owned() };
    let is_time = ["_seconds", "_seconds_total"].iter().any(|end| figure.name.ends_with(end));
    let seconds = value.as_f64().filter(|_| is_time);
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match time {
        Some(time) if figure.name == "process_start_time_seconds" => {
            UNIX_EPOCH.checked_add(time).map_or(value.to_string(), |start| {
                humantime::format_rfc3339_seconds(start).to_string()
            })
        }
        Some(time) => format!("{time:.1?}"),
        None => value.to_string(),
    }
}

fn shown_bound(bound: Bound) -> String {
    let time = Duration::from_secs_f64;
    match bound {
        Bound::None => "-".to_owned(),
        Bound::AtMost(seconds) => format!("<= {:.1?}", time(seconds)),
        Bound::Above(seconds) => format!("> {:.1?}", time(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ctl::samples::figures;

    #[test]
    fn each_metric_has_a_line() {
        let text = "\
# TYPE saltecho_build_info gauge
saltecho_build_info{version=\"1.2.3\",commit=\"abc\"} 1
process_start_time_seconds 1790000000.25
# TYPE saltecho_connections gauge
saltecho_connections{state=\"await_digest\"} 0
saltecho_connections{state=\"echoing\"} 12
saltecho_authentications_total{result=\"accepted\",key=\"bab78a7f\"} 9
saltecho_authentications_total{result=\"rejected\",key=\"\"} 1
saltecho_refused_total{reason=\"no_room\"} 0
saltecho_received_bytes_total 18446744073709551615
saltecho_turns_total{worker=\"1\"} 0
saltecho_turns_total{worker=\"2\"} 7
saltecho_asleep_seconds_total{worker=\"1\"} 1.25
# TYPE saltecho_queue_wait_seconds histogram
saltecho_queue_wait_seconds_sum{worker=\"1\"} 0
saltecho_queue_wait_seconds_count{worker=\"1\"} 0
saltecho_queue_wait_seconds_bucket{le=\"+Inf\",worker=\"1\"} 0
saltecho_queue_wait_seconds_sum{worker=\"2\"} 0.001
saltecho_queue_wait_seconds_count{worker=\"2\"} 2
saltecho_queue_wait_seconds_bucket{le=\"0.001048576\",worker=\"2\"} 1
saltecho_queue_wait_seconds_bucket{le=\"+Inf\",worker=\"2\"} 2
";
        let expected = "\
build               version 1.2.3, commit abc
process start time  2026-09-21T14:13:20Z
connections         12 echoing
authentications     9 accepted bab78a7f, 1 rejected
refused             0
received bytes      18446744073709551615
turns               0, 7
asleep              1.2s
queue wait p50      -, <= 1.0ms
queue wait p99      -, > 1.0ms
";
        assert_eq!(table(&figures(text)), expected);
    }
}
