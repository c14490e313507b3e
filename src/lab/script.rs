use std::fmt;

use super::log::count;
use crate::sim::Faults;

/// A step of a script. Clients are numbered in the order in which they connect, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The next client connects.
    Connect,
    /// A client sends so many bytes more, as fast as there is room for them.
    Send(usize, usize),
    /// A client sends one urgent byte.
    Urgent(usize),
    /// A client reads no more until it resumes.
    Stall(usize),
    /// A client that stalled reads again.
    Resume(usize),
    /// A client ends its stream behind what it sends.
    Finish(usize),
    /// A client resets the connection.
    Reset(usize),
    /// The process is stopped for so many milliseconds.
    Jump(u32),
    /// The loop gets a poll before the next step.
    Turn,
    /// The loop comes to rest, and so many milliseconds pass.
    Wait(u32),
}

/// A run as plain data: what the clients do, and what the kernel is allowed to. The same script gives
/// the same run of the same loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The steps, in order.
    pub acts: Vec<Act>,
    /// Bytes that each direction of a connection holds, at the receiver at most `window` of them.
    pub to_server: usize,
    /// The same in the other direction.
    pub to_client: usize,
    /// Maximum number of bytes that have arrived and are unread.
    pub window: usize,
    /// The kernel's faults.
    pub faults: Faults,
    /// The seed of the kernel's choices.
    pub kernel_seed: u64,
    /// The faults that happen, by their number among all that may; `None` is as the seed has them.
    pub strikes: Option<Vec<u32>>,
}

impl Script {
    /// A script over a kernel without faults, with 512 bytes in each direction.
    pub const fn new(acts: Vec<Act>) -> Self {
        let faults = Faults::none();
        Self {
            acts,
            to_server: 512,
            to_client: 512,
            window: 512,
            faults,
            kernel_seed: 1,
            strikes: None,
        }
    }

    /// Scripts that are simpler than this one, the simplest first. Each is worth a try if this one
    /// fails.
    pub(super) fn simpler(&self) -> Vec<Self> {
        let mut simpler = Vec::new();
        if self.faults != Faults::none() {
            simpler.push(Self { faults: Faults::none(), strikes: None, ..self.clone() });
        }
        let fewer = shorter(&self.acts);
        simpler.extend(fewer.map(|acts| Self { acts, ..self.clone() }));
        simpler.extend(self.with_fewer_strikes());
        let clients = self.acts.iter().filter(|act| **act == Act::Connect).count();
        simpler.extend((0..clients).map(|client| self.without(client)));
        for (index, act) in self.acts.iter().enumerate() {
            for act in act.smaller() {
                let mut acts = self.acts.clone();
                acts[index] = act;
                simpler.push(Self { acts, ..self.clone() });
            }
        }
        simpler.extend(self.with_fewer_faults());
        simpler
    }

    /// Scripts in which fewer faults happen. Without one of them there may be more or fewer occasions for
    /// the next, so their numbers change: a single fault is tried at every place.
    fn with_fewer_strikes(&self) -> Vec<Self> {
        let strikes = self.strikes.as_deref().unwrap_or_default();
        let singles = match strikes {
            [.., _, last] => 0..last + 1,
            _ => 0..0,
        };
        let fewer = shorter(strikes).chain(singles.map(|number| vec![number]));
        fewer.map(|strikes| Self { strikes: Some(strikes), ..self.clone() }).collect()
    }

    /// The script without this client.
    fn without(&self, client: usize) -> Self {
        let mut connected = 0;
        let acts = self.acts.iter().filter_map(|act| match act {
            Act::Connect => {
                connected += 1;
                (connected != client + 1).then_some(*act)
            }
            act => match act.client() {
                Some(other) if other == client => None,
                Some(other) if other > client => Some(act.of(other - 1)),
                _ => Some(*act),
            },
        });
        Self { acts: acts.collect(), ..self.clone() }
    }

    fn with_fewer_faults(&self) -> Vec<Self> {
        type Field = fn(&mut Faults) -> &mut u32;
        const FIELDS: [Field; 12] = [
            |faults| &mut faults.spurious_event,
            |faults| &mut faults.repeated_event,
            |faults| &mut faults.delayed_event,
            |faults| &mut faults.split_event,
            |faults| &mut faults.overtaking_event,
            |faults| &mut faults.stale_event,
            |faults| &mut faults.late_arrival,
            |faults| &mut faults.partial_write,
            |faults| &mut faults.interrupted,
            |faults| &mut faults.accept_error,
            |faults| &mut faults.network_failure,
            |faults| &mut faults.clock_jump,
        ];
        let without = |field: &Field| {
            let mut script = self.clone();
            let frequency = field(&mut script.faults);
            (std::mem::take(frequency) > 0).then_some(script)
        };
        FIELDS.iter().filter_map(without).collect()
    }
}

/// A list without a half of it, without a quarter, and so on to a single element.
fn shorter<T: Clone>(list: &[T]) -> impl Iterator<Item = Vec<T>> {
    let parts = std::iter::successors(Some(list.len().div_ceil(2)), |part| Some(part / 2));
    let parts = parts.take_while(|part| *part > 0);
    parts.flat_map(move |part| {
        (0..list.len()).step_by(part).map(move |begin| {
            let mut list = list.to_vec();
            list.drain(begin..(begin + part).min(list.len()));
            list
        })
    })
}

impl Act {
    /// The client that acts.
    pub const fn client(self) -> Option<usize> {
        match self {
            Self::Send(client, _)
            | Self::Urgent(client)
            | Self::Stall(client)
            | Self::Resume(client)
            | Self::Finish(client)
            | Self::Reset(client) => Some(client),
            Self::Connect | Self::Jump(_) | Self::Turn | Self::Wait(_) => None,
        }
    }

    /// The same of another client.
    const fn of(self, client: usize) -> Self {
        match self {
            Self::Send(_, n) => Self::Send(client, n),
            Self::Urgent(_) => Self::Urgent(client),
            Self::Stall(_) => Self::Stall(client),
            Self::Resume(_) => Self::Resume(client),
            Self::Finish(_) => Self::Finish(client),
            Self::Reset(_) => Self::Reset(client),
            Self::Connect | Self::Jump(_) | Self::Turn | Self::Wait(_) => self,
        }
    }

    fn smaller(self) -> Vec<Self> {
        let sizes =
            |n: usize| [1, n / 2, n - n / 4, n - 1].into_iter().filter(move |m| *m < n && *m > 0);
        match self {
            Self::Send(client, n) => sizes(n).map(|n| Self::Send(client, n)).collect(),
            Self::Wait(0) => Vec::new(),
            Self::Wait(ms) => vec![Self::Turn, Self::Wait(0), Self::Wait(ms / 2)],
            Self::Jump(ms) if ms > 1 => vec![Self::Jump(ms / 2)],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(client) = self.client() {
            write!(f, "c{} ", client + 1)?;
        }
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Send(_, n) => write!(f, "sends {n}"),
            Self::Urgent(_) => f.write_str("sends an urgent byte"),
            Self::Stall(_) => f.write_str("stops reading"),
            Self::Resume(_) => f.write_str("reads again"),
            Self::Finish(_) => f.write_str("ends its stream"),
            Self::Reset(_) => f.write_str("resets"),
            Self::Jump(ms) => write!(f, "the process is stopped for {ms} ms"),
            Self::Turn => f.write_str("turn"),
            Self::Wait(0) => f.write_str("rest"),
            Self::Wait(ms) => write!(f, "{ms} ms pass"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, act) in self.acts.iter().enumerate() {
            write!(f, "{}{act}", if index > 0 { ", " } else { "" })?;
        }
        match self.strikes.as_ref().map_or(0, Vec::len) {
            0 => Ok(()),
            n => write!(f, "; with {} of the kernel", count(n, "fault")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much there is to a script.
    fn weight(script: &Script) -> (usize, usize, usize, usize) {
        let amounts = script.acts.iter().map(|act| match *act {
            Act::Send(_, n) => n,
            Act::Jump(ms) | Act::Wait(ms) => ms as usize,
            _ => 0,
        });
        let faults =
            usize::from(script.faults != Faults::none()) + script.with_fewer_faults().len();
        let strikes = script.strikes.as_ref().map_or(0, Vec::len);
        (script.acts.len(), faults, strikes, amounts.sum())
    }

    #[test]
    fn each_simpler_script_weighs_less() {
        let acts = vec![
            Act::Connect,
            Act::Turn,
            Act::Connect,
            Act::Send(1, 100),
            Act::Send(0, 3),
            Act::Wait(40),
            Act::Finish(1),
        ];
        let faults = Faults { late_arrival: 100, stale_event: 5, ..Faults::none() };
        let strikes = Some(vec![2, 3, 7]);
        let script = Script { faults, strikes, ..Script::new(acts) };
        let simpler = script.simpler();
        assert!(simpler.len() > 20);
        assert_eq!(simpler[0].faults, Faults::none());
        for other in &simpler {
            assert!(weight(other) < weight(&script), "{other}");
        }
        let alone = script.without(0);
        assert_eq!(
            alone.to_string(),
            "turn, connect, c1 sends 100, 40 ms pass, c1 ends its stream; with 3 faults of the kernel"
        );
    }
}
