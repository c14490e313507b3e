use crate::random::SplitMix;

/// Frequencies of a simulated kernel's faults, in thousandths of the occasions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// An event for a socket or a listener that is not ready.
    pub spurious_event: u32,
    /// An event that comes twice.
    pub repeated_event: u32,
    /// An event that comes a poll later, and behind others.
    pub delayed_event: u32,
    /// An event that comes in two parts, one now and one later.
    pub split_event: u32,
    /// An event that overtakes others.
    pub overtaking_event: u32,
    /// An event for a socket that is closed.
    pub stale_event: u32,
    /// Bytes and ends that arrive in pieces, also between two calls of one turn.
    pub late_arrival: u32,
    /// A `send` that takes less than there is room for.
    pub partial_write: u32,
    /// EINTR from `recv` and `send`, and a poll that returns before its time.
    pub interrupted: u32,
    /// An error of `recv` or `send` after which the connection is of no use.
    pub broken_call: u32,
    /// A connection that the network resets, times out or makes unreachable, at any call.
    pub network_failure: u32,
    /// An error of `accept`, of any class but the fatal one.
    pub accept_error: u32,
    /// A registration that fails.
    pub register_error: u32,
    /// A random source that fails.
    pub random_error: u32,
    /// A clock that jumps ahead: the process was stopped, the machine slept.
    pub clock_jump: u32,
    /// A keepalive probe that is lost on its way, or whose answer is. Never more than five in a row.
    pub lost_probe: u32,
    /// Number of connections that there are descriptors for.
    pub descriptors: usize,
}

impl Faults {
    /// On every occasion.
    pub const ALWAYS: u32 = 1000;

    /// No faults.
    pub const fn none() -> Self {
        Self {
            spurious_event: 0,
            repeated_event: 0,
            delayed_event: 0,
            split_event: 0,
            overtaking_event: 0,
            stale_event: 0,
            late_arrival: 0,
            partial_write: 0,
            interrupted: 0,
            broken_call: 0,
            network_failure: 0,
            accept_error: 0,
            register_error: 0,
            random_error: 0,
            clock_jump: 0,
            lost_probe: 0,
            descriptors: usize::MAX,
        }
    }

    /// Faults whose frequencies are themselves drawn, about half of them none at all: a run in
    /// which everything fails a little rarely reaches what a run with one frequent fault does.
    pub fn draw(random: &mut SplitMix) -> Self {
        let mut often = |most: usize| match random.below(2) {
            0 => 0,
            _ => u32::try_from(random.below(most)).expect("thousandths"),
        };
        Self {
            spurious_event: often(300),
            repeated_event: often(300),
            delayed_event: often(700),
            split_event: often(700),
            overtaking_event: often(700),
            stale_event: often(300),
            late_arrival: often(900),
            partial_write: often(900),
            interrupted: often(300),
            broken_call: often(5),
            network_failure: often(5),
            accept_error: often(500),
            register_error: often(100),
            random_error: often(100),
            clock_jump: often(20),
            lost_probe: often(999),
            descriptors: match often(2) {
                0 => usize::MAX,
                _ => 1 + often(8) as usize,
            },
        }
    }
}
