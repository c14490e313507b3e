//! The Grafana dashboard, made from the metrics of `saltecho::metrics`.

use serde_json::{Value, json};

/// A panel: its title, its unit, and its queries with their legends.
type Panel = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// From the top: whether all is well, what it does, why it refuses, what it costs, how late it is.
const PANELS: [Panel; 16] = [
    (
        "Ready, and loops that do not answer",
        "short",
        &[
            (r#"min(saltecho_ready{instance=~"$instance"})"#, "every server is ready"),
            (r#"sum(saltecho_workers_missing{instance=~"$instance"})"#, "loops that do not answer"),
        ],
    ),
    (
        "Connections",
        "short",
        &[
            (r#"sum by (state) (saltecho_connections{instance=~"$instance"})"#, "{{state}}"),
            (r#"sum(saltecho_connections_limit{instance=~"$instance"})"#, "limit"),
        ],
    ),
    (
        "Accepted and refused",
        "cps",
        &[
            (
                r#"sum(rate(saltecho_accepted_total{instance=~"$instance"}[$__rate_interval]))"#,
                "accepted",
            ),
            (
                r#"sum by (reason) (rate(saltecho_refused_total{instance=~"$instance"}[$__rate_interval]))"#,
                "refused: {{reason}}",
            ),
            (
                r#"sum(rate(saltecho_accept_pauses_total{instance=~"$instance"}[$__rate_interval]))"#,
                "pauses",
            ),
        ],
    ),
    (
        "Authentications",
        "cps",
        &[(
            r#"sum by (result, key) (rate(saltecho_authentications_total{instance=~"$instance"}[$__rate_interval]))"#,
            "{{result}} {{key}}",
        )],
    ),
    (
        "Ends of connections",
        "cps",
        &[(
            r#"sum by (reason) (rate(saltecho_closed_total{instance=~"$instance"}[$__rate_interval])) > 0"#,
            "{{reason}}",
        )],
    ),
    (
        "Traffic",
        "Bps",
        &[
            (
                r#"sum(rate(saltecho_received_bytes_total{instance=~"$instance"}[$__rate_interval]))"#,
                "received",
            ),
            (
                r#"sum(rate(saltecho_sent_bytes_total{instance=~"$instance"}[$__rate_interval]))"#,
                "sent",
            ),
        ],
    ),
    (
        "Answers lost and waiting",
        "bytes",
        &[
            (r#"sum(saltecho_backlog_bytes{instance=~"$instance"})"#, "wait for their peers"),
            (
                r#"sum(increase(saltecho_undelivered_bytes_total{instance=~"$instance"}[$__rate_interval]))"#,
                "lost with their connection",
            ),
        ],
    ),
    (
        "Loop lag: time of a turn",
        "s",
        &[
            (
                r#"histogram_quantile(0.5, sum by (le) (rate(saltecho_turn_duration_seconds_bucket{instance=~"$instance"}[$__rate_interval])))"#,
                "p50",
            ),
            (
                r#"histogram_quantile(0.99, sum by (le) (rate(saltecho_turn_duration_seconds_bucket{instance=~"$instance"}[$__rate_interval])))"#,
                "p99",
            ),
        ],
    ),
    (
        "Loop lag: wait in the run queue",
        "s",
        &[
            (
                r#"histogram_quantile(0.5, sum by (le) (rate(saltecho_queue_wait_seconds_bucket{instance=~"$instance"}[$__rate_interval])))"#,
                "p50",
            ),
            (
                r#"histogram_quantile(0.99, sum by (le) (rate(saltecho_queue_wait_seconds_bucket{instance=~"$instance"}[$__rate_interval])))"#,
                "p99",
            ),
        ],
    ),
    (
        "Events per turn",
        "short",
        &[(
            r#"rate(saltecho_events_total{instance=~"$instance"}[$__rate_interval]) / rate(saltecho_turns_total{instance=~"$instance"}[$__rate_interval])"#,
            "{{instance}} loop {{worker}}",
        )],
    ),
    (
        "Time asleep",
        "percentunit",
        &[(
            r#"rate(saltecho_asleep_seconds_total{instance=~"$instance"}[$__rate_interval])"#,
            "{{instance}} loop {{worker}}",
        )],
    ),
    (
        "Processor and memory",
        "short",
        &[
            (
                r#"rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval])"#,
                "cores, {{instance}}",
            ),
            (r#"process_resident_memory_bytes{instance=~"$instance"} / 2^30"#, "GiB, {{instance}}"),
        ],
    ),
    (
        "Deadlines and log",
        "short",
        &[
            (r#"sum(saltecho_deadlines{instance=~"$instance"})"#, "deadlines armed"),
            (
                r#"sum(increase(saltecho_log_lines_suppressed_total{instance=~"$instance"}[$__rate_interval]))"#,
                "log lines left out",
            ),
        ],
    ),
    (
        "Descriptors",
        "percentunit",
        &[(
            r#"process_open_fds{instance=~"$instance"} / process_max_fds{instance=~"$instance"}"#,
            "{{instance}}",
        )],
    ),
    (
        "Upgrades",
        "short",
        &[
            (r#"max(saltecho_upgrade_generation{instance=~"$instance"})"#, "generation"),
            (r#"sum(saltecho_upgrade_in_progress{instance=~"$instance"})"#, "in progress"),
            (
                r#"sum by (result, reason) (increase(saltecho_upgrades_total{instance=~"$instance"}[$__rate_interval])) > 0"#,
                "{{result}} {{reason}}",
            ),
            (
                r#"sum(increase(saltecho_upgrade_connections_total{instance=~"$instance"}[$__rate_interval]))"#,
                "connections handed over",
            ),
            (
                r#"sum(increase(saltecho_upgrade_connections_dropped_total{instance=~"$instance"}[$__rate_interval]))"#,
                "connections lost",
            ),
        ],
    ),
    (
        "Upgrades: freeze",
        "s",
        &[
            (r#"max(saltecho_upgrade_last_freeze_seconds{instance=~"$instance"})"#, "last freeze"),
            (r#"max(saltecho_upgrade_prepare_seconds{instance=~"$instance"})"#, "last preparation"),
            (
                r#"histogram_quantile(0.99, sum by (le) (rate(saltecho_upgrade_freeze_seconds_bucket{instance=~"$instance"}[$__rate_interval])))"#,
                "p99 of freezes",
            ),
        ],
    ),
];

/// The dashboard in the format of Grafana's import, which asks for the data source.
pub(super) fn dashboard() -> Value {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let panels: Vec<Value> = PANELS.iter().zip(0..).map(|it| panel(it.0, it.1, &source)).collect();
    json!({
        "title": "saltecho",
        "uid": "saltecho",
        "description": "An authenticated echo service: its connections, its loops, its costs.",
        "tags": ["saltecho"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            {
                "name": "instance",
                "type": "query",
                "datasource": source,
                "query": "label_values(saltecho_build_info, instance)",
                "refresh": 2,
                "multi": true,
                "includeAll": true,
                "current": {"text": "All", "value": "$__all"},
            },
        ]},
        "panels": panels,
    })
}

fn panel((title, unit, queries): &Panel, number: usize, source: &Value) -> Value {
    let target = |(query, letter): (&(&str, &str), char)| json!({"refId": letter, "datasource": source, "expr": query.0, "legendFormat": query.1});
    let targets: Vec<Value> = queries.iter().zip('A'..).map(target).collect();
    json!({
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "gridPos": {"x": number % 2 * 12, "y": number / 2 * 8, "w": 12, "h": 8},
        "targets": targets,
    })
}
