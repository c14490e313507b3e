//! The locks between loops and other threads: those of std, or in a model those of loom, which runs every
//! order in which threads can take them. `model` has the models.

#[cfg(not(all(loom, test)))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicUsize};

#[cfg(all(loom, test))]
pub(super) use loom::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicUsize};
