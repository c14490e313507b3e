//! The metrics of a server in the OpenMetrics format, from one plain copy of its counters.
//!
//! The loop counts in ordinary fields that only it writes, without atomics. For a scrape they are
//! copied into a [`Snapshot`], which [`openmetrics`] and [`prometheus_text`] render; the names,
//! units and label values of docs/OPERATIONS.md are decided here. Label values come from closed
//! sets, key ids aside, of which there are at most as many as keys.

mod histogram;
mod render;
mod snapshot;

pub use histogram::TimeHistogram;
pub use render::{OPENMETRICS, PROMETHEUS_TEXT, openmetrics, prometheus_text};
pub use snapshot::{Connections, Process, Refusals, Snapshot, Worker};
