//! The load generator: what load to make ([`Plan`]), what is recorded of it ([`Record`]).
//!
//! Percentiles are computed from histograms that were added up, never averaged.

mod plan;
mod record;

pub use plan::{Mode, Pace, Plan};
pub use record::{
    Counts, ErrorKind, Errors, Interval, Outcome, Part, Record, Series, Standing, empty_histogram,
};
