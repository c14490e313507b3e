//! The seconds of a run as lines of JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::{RunInfo, Second, Sink};
use crate::load::Interval;

/// Writes each second as one line of JSON (NDJSON) in the format of
/// `schemas/load-event.schema.json`, and flushes it so that other programs can follow.
pub struct EventLog<W>(W);

/// A second with the name of its schema.
#[derive(Serialize)]
struct Event<'a> {
    schema: &'static str,
    #[serde(flatten)]
    second: &'a Second,
}

impl<W: Write + Send> EventLog<W> {
    /// Creates a log that writes to `to`, a whole line at a time.
    pub const fn new(to: W) -> Self {
        Self(to)
    }
}

impl<W: Write + Send> Sink for EventLog<W> {
    fn second(&mut self, _: &Interval, second: &Second) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Event { schema: "saltecho-load-event/2", second })?;
        line.push(b'\n');
        self.0.write_all(&line)?;
        self.0.flush()
    }

    fn end(&mut self, _: &RunInfo) -> io::Result<()> {
        self.0.flush()
    }
}
