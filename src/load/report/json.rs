//! A report as JSON, in the format of `schemas/load-report.schema.json`.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::visible::misleads;
use super::{Report, Verdict};
use crate::python::saturating_nanos;

impl Report {
    /// The report as indented JSON text with a final line feed. Escapes characters that control a
    /// terminal, which JSON alone would not.
    pub fn to_json_text(&self) -> String {
        visible_text(&self.to_json())
    }

    /// The report as one JSON object. Numbers are integers in base units, with the unit in the name.
    pub fn to_json(&self) -> Value {
        let series: Map<String, Value> = self
            .recorded_series()
            .map(|(series, n)| (series.as_str().to_owned(), value(&n)))
            .collect();
        let (bytes_sent, bytes_received) = self.byte_rates();
        let (counts, measured) = (&self.record.counts, &self.record.measured);
        let mut verdict = json!({
            "verdict": self.verdict.as_str(),
            "reliable": self.verdict == Verdict::Reliable,
            "headline": self.headline().as_str(),
        });
        let texts = [
            ("reason", self.verdict.reason().map(str::to_owned)),
            ("explanation", self.explanation()),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                verdict[name] = text.into();
            }
        }
        let mut report = json!({
            "schema": "saltecho-load-report/2",
            "generators": value(&self.generators),
            "mode": value(&self.mode()),
            "model": if self.is_open() { "open" } else { "closed" },
            "measured_ns": saturating_nanos(self.measured),
            "overlap_ns": self.overlap.map(saturating_nanos),
            "reliability": verdict,
            "warnings": self.warnings,
            "series": series,
            "counts": value(counts),
            "rates": {
                "due_per_s": self.per_second(measured.due),
                "sent_per_s": self.per_second(measured.sent),
                "answered_per_s": self.per_second(measured.answered),
                "bytes_sent_per_s": bytes_sent,
                "bytes_received_per_s": bytes_received,
            },
            "states": value(&self.states),
            "seconds": value(&self.seconds),
        });
        if !self.upgrades.is_empty() {
            report["upgrades"] = value(&self.upgrades);
        }
        if let Some(server) = &self.server {
            report["server"] = value(server);
        }
        report
    }
}

/// Indented JSON text with a final line feed.
pub(super) fn visible_text(json: &Value) -> String {
    let json = format!("{json:#}\n");
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\n' => text.push('\n'),
            _ if misleads(character) => {
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text
}

pub(super) fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("all keys are strings, and no number is out of range")
}
