//! Exercises for event loops. `README.md` beside this crate's manifest says how to begin.

mod mistakes;
pub mod model;

pub use mistakes::WRONG;
