//! The metrics of a server in the OpenMetrics format, from one plain copy of its counters.
//!
//! The loop counts in ordinary fields that only it writes, without atomics. For a scrape they are
//! copied into a [`Snapshot`], which `openmetrics` and `prometheus_text` (feature `metrics`) render;
//! the names, units and label values of docs/OPERATIONS.md are decided here. Label values come from
//! closed sets, key ids aside, of which there are at most as many as keys.

mod histogram;
#[cfg(feature = "metrics")]
mod render;
mod snapshot;

pub use histogram::TimeHistogram;
#[cfg(feature = "metrics")]
pub use render::{Format, openmetrics, prometheus_text};
pub use snapshot::{Connections, Process, Refusals, Snapshot, Upgrades, Worker};
