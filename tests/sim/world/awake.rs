//! Judges when a loop sleeps.

use std::time::Duration;

use saltecho::python::Monotonic;
use saltecho::reactor::Kernel as _;
use saltecho::sim::SimKernel;

/// Checks that the loop sleeps when it should: not before its spin time has passed since the last
/// event, then soon, unless there is work.
#[derive(Default)]
pub struct Awake {
    spin: Duration,
    events: u64,
    /// The loop's time before its last poll, and the end of its spin.
    reading: Monotonic,
    until: Monotonic,
    /// The fruitless polls that belong to the spin.
    spun: u32,
}

impl Awake {
    pub fn new(spin: Duration) -> Self {
        Self { spin, ..Self::default() }
    }

    /// Another loop goes on, or the same one after a failed attempt. It may be awake for a while.
    pub fn begin_anew(&mut self, kernel: &mut SimKernel) {
        self.until = kernel.now().saturating_add(self.spin);
        self.reading = kernel.last_reading();
    }

    pub fn judge(&mut self, kernel: &SimKernel) {
        let spinning = self.reading < self.until;
        assert!(
            !(spinning && kernel.slept()),
            "asleep at {:?}, with {:?} to spin",
            self.reading,
            self.until
        );
        let fruitless = kernel.fruitless_polls();
        self.spun = if spinning { fruitless } else { self.spun.min(fruitless) };
        assert!(fruitless - self.spun < 200, "the loop spins without doing anything");
        self.reading = kernel.last_reading();
        if kernel.events() > self.events {
            self.events = kernel.events();
            self.until = self.reading.saturating_add(self.spin);
        }
    }
}
