//! The reasons for which an upgrade is refused or given up: a closed set, for metrics.

/// The reason for which there was no upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    // Refusals: nothing was started.
    /// Another upgrade is in progress.
    Busy,
    /// The server drains or has ended.
    Draining,
    /// The server is recorded.
    Recorded,
    /// The process is the first of its namespace, whose end ends all others.
    Init,
    /// A supervisor that cannot follow started the process.
    Supervisor,
    /// The file of the program cannot be executed.
    NoProgram,
    /// The descriptors do not suffice.
    Descriptors,
    /// The memory does not suffice.
    Memory,
    /// The freeze would take longer than allowed.
    TooLong,
    // Aborts: the running version goes on.
    /// The new process could not be started.
    Spawn,
    /// The new process says that it cannot take over.
    Declined,
    /// The two versions have no format in common.
    Format,
    /// The new process ended.
    Died,
    /// The new process missed a deadline.
    Late,
    /// A loop did not stop in time.
    NotParked,
    /// A message was lost, damaged or out of order.
    Channel,
    /// Fewer sockets arrived than were sent.
    Truncated,
    /// A drain or a stop was asked for meanwhile.
    Cancelled,
}

impl Reason {
    /// Those of refusals.
    pub(super) const REFUSALS: [Self; 9] = [
        Self::Busy,
        Self::Draining,
        Self::Recorded,
        Self::Init,
        Self::Supervisor,
        Self::NoProgram,
        Self::Descriptors,
        Self::Memory,
        Self::TooLong,
    ];
    /// Those of aborts.
    pub(super) const ABORTS: [Self; 9] = [
        Self::Spawn,
        Self::Declined,
        Self::Format,
        Self::Died,
        Self::Late,
        Self::NotParked,
        Self::Channel,
        Self::Truncated,
        Self::Cancelled,
    ];

    /// The reason for which a new process says that it gives up, if it names one; without a name it is
    /// [`Declined`](Self::Declined).
    pub(super) fn of_new(label: &str) -> Option<Self> {
        [Self::Format, Self::Truncated].into_iter().find(|reason| reason.label() == label)
    }

    /// The name in metrics and in the log.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Recorded => "recorded",
            Self::Init => "pid_1",
            Self::Supervisor => "supervisor",
            Self::NoProgram => "no_program",
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::TooLong => "freeze_too_long",
            Self::Spawn => "spawn",
            Self::Declined => "declined",
            Self::Format => "format",
            Self::Died => "died",
            Self::Late => "late",
            Self::NotParked => "not_parked",
            Self::Channel => "channel",
            Self::Truncated => "truncated",
            Self::Cancelled => "cancelled",
        }
    }
}
