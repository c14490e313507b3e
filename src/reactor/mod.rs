//! The parts that any loop needs: one poll, any number of connections.
//!
//! Everything that a loop asks of the operating system goes through [`Kernel`], so the same loop
//! runs over real sockets and over simulated ones. Events only set bits ([`Ready`]); the work is
//! done from a run queue.

mod kernel;
mod mio_kernel;
mod ready;
pub(crate) mod slots;
pub(crate) mod timers;
pub(crate) mod transfer;

use std::collections::VecDeque;

use slots::Slot;

use crate::proto::ConnId;

pub use kernel::{Close, Kernel, Liveness, Wake};
pub use mio_kernel::{ListenOptions, MioKernel};
pub use ready::Ready;
pub use slots::{Target, Token};
pub use timers::{Link, Links, Step as TimerStep, Wheel};

/// Puts a connection into the run queue, unless it is there.
pub(crate) fn enqueue<S, C>(run_queue: &mut VecDeque<ConnId>, slot: &mut Slot<S, C>, id: ConnId) {
    if !slot.queued {
        slot.queued = true;
        run_queue.push_back(id);
    }
}
