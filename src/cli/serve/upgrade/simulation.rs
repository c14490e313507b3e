//! Both sides of an upgrade and the channel between them, in every order of events: each message
//! arrives early or late, each deadline passes or does not, and either process dies at any moment.
//!
//! In every state at most one process serves. In every state from which nothing more happens, one
//! does, unless its process was killed.

use std::collections::{HashSet, VecDeque};

use super::message::Kind;
use super::reason::Reason;
use super::{new, old};

/// The state of everything.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    old: old::Old,
    old_lives: bool,
    /// Old handles the event of an action that it has yet to do.
    old_has_to: Option<OldWork>,
    new: new::New,
    new_lives: bool,
    new_is_stopped: bool,
    new_has_to: bool,
    /// Messages on their way to old, and to new.
    to_old: VecDeque<Kind>,
    to_new: VecDeque<Kind>,
    /// New was killed. It also ends by exiting, old only by being killed.
    killed_new: bool,
    /// Messages of a transfer that are still to be sent.
    unsent: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum OldWork {
    Park,
    Send,
}

impl World {
    fn new() -> Self {
        Self {
            old: old::Old::begin(),
            old_lives: true,
            old_has_to: None,
            new: new::New::begin(),
            new_lives: true,
            new_is_stopped: false,
            new_has_to: false,
            to_old: VecDeque::from([Kind::Hello]),
            to_new: VecDeque::new(),
            killed_new: false,
            unsent: 0,
        }
    }

    /// Returns true if old would touch its sockets. While it is frozen it does not.
    fn old_serves(&self) -> bool {
        let frozen = [old::Step::Sending, old::Step::Sent, old::Step::Committed, old::Step::Left];
        self.old_lives && !frozen.contains(&self.old.step())
    }

    fn new_serves(&self) -> bool {
        self.new_lives && self.new.step() == new::Step::Serving
    }

    /// All worlds that this one can become in one step.
    fn successors(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut may = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
        let frozen_or_waiting = !matches!(self.old.step(), old::Step::Left | old::Step::Resumed);
        if self.old_lives {
            may(&|world| world.old_lives = false);
            if !self.to_old.is_empty() && frozen_or_waiting {
                may(&|world| {
                    let kind = world.to_old.pop_front().unwrap();
                    world.old_hears(old::Event::Came(kind));
                });
            }
            if !self.new_lives && self.to_old.is_empty() && frozen_or_waiting {
                may(&|world| world.old_hears(old::Event::Ended));
            }
            if frozen_or_waiting {
                may(&|world| world.old_hears(old::Event::Late));
                may(&|world| world.old_fails());
            }
            match self.old_has_to {
                Some(OldWork::Park) => may(&|world| {
                    world.old_has_to = None;
                    world.old_hears(old::Event::Parked);
                }),
                Some(OldWork::Send) => may(&|world| world.old_sends_one()),
                None => {}
            }
        }
        if self.new_lives && !self.new_is_stopped {
            may(&|world| (world.new_lives, world.killed_new) = (false, true));
            if self.new_has_to {
                may(&|world| world.new_hears(new::Event::Done));
                may(&|world| world.new_hears(new::Event::Failed));
            } else if !self.to_new.is_empty() {
                may(&|world| {
                    let kind = world.to_new.pop_front().unwrap();
                    world.new_hears(new::Event::Came(kind));
                });
            } else if !self.old_lives {
                may(&|world| world.new_hears(new::Event::Closed { old_lives: false }));
            }
        }
        worlds
    }

    fn old_fails(&mut self) {
        // Only what old does by itself can fail; a message that cannot be sent is found as the end.
        if matches!(self.old.step(), old::Step::Committed | old::Step::Sent) {
            return;
        }
        self.old_hears(old::Event::Failed(Reason::Cancelled));
    }

    fn old_hears(&mut self, event: old::Event) {
        match self.old.handle(event) {
            None | Some(old::Action::Wait) => {}
            Some(old::Action::Offer) => self.to_new.push_back(Kind::Offer),
            Some(old::Action::Park) => self.old_has_to = Some(OldWork::Park),
            Some(old::Action::Send) => {
                self.old_has_to = Some(OldWork::Send);
                self.unsent = 3;
            }
            Some(old::Action::Commit) if self.new_lives => self.to_new.push_back(Kind::Commit),
            // The send fails, since the other end is closed.
            Some(old::Action::Commit) => self.old_hears(old::Event::Ended),
            Some(old::Action::Halt) => {
                self.new_is_stopped = true;
                match self.to_old.pop_front() {
                    Some(kind) => {
                        self.new_is_stopped = false;
                        self.old_hears(old::Event::Came(kind));
                    }
                    None if self.new_lives => self.old_hears(old::Event::Halted),
                    None => self.old_hears(old::Event::Ended),
                }
            }
            Some(old::Action::Leave) => {}
            Some(old::Action::GiveUp(_)) => {
                (self.new_lives, self.old_has_to) = (false, None);
                self.to_old.clear();
                self.to_new.clear();
            }
        }
    }

    fn old_sends_one(&mut self) {
        if !self.new_lives {
            return self.old_hears(old::Event::Ended);
        }
        self.unsent -= 1;
        let kind = [Kind::End, Kind::Program, Kind::Records(4)][usize::from(self.unsent)];
        self.to_new.push_back(kind);
        if self.unsent == 0 {
            self.old_has_to = None;
            self.old_hears(old::Event::SentAll);
        }
    }

    fn new_hears(&mut self, event: new::Event) {
        self.new_has_to = false;
        let mut send = |kind| {
            if self.old_lives {
                self.to_old.push_back(kind);
            }
        };
        match self.new.handle(event) {
            new::Action::Wait | new::Action::Store => {}
            new::Action::Prepare | new::Action::Restore => self.new_has_to = true,
            new::Action::SendPrepared => send(Kind::Prepared),
            new::Action::SendAck => send(Kind::Ack),
            new::Action::Serve => send(Kind::Taken),
            new::Action::Exit => {
                send(Kind::Error);
                self.new_lives = false;
            }
        }
    }

    fn check(&self) {
        assert!(!(self.old_serves() && self.new_serves()), "two servers: {self:?}");
    }

    /// A state from which only a death leads on.
    fn check_end(&self) {
        let serves = self.old_serves() || self.new_serves();
        let may_be_lost = !self.old_lives && !self.new_serves()
            || self.killed_new && self.old.step() == old::Step::Left;
        assert!(serves || may_be_lost, "no server: {self:?}");
        // The clients of a killed process are lost only with the process that owned them.
        if self.old_lives && !self.killed_new {
            assert!(serves, "no process was killed, and none serves: {self:?}");
        }
    }

    fn is_over(&self) -> bool {
        let old_is_done = !self.old_lives
            || self.old_serves() && self.old.step() == old::Step::Resumed
            || self.old.step() == old::Step::Left;
        let new_is_done = !self.new_lives || self.new_serves();
        old_is_done && new_is_done
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { old, old_lives, new, new_lives, to_old, to_new, .. } = self;
        write!(f, "old {old:?} lives {old_lives}, new {new:?} lives {new_lives}, ")?;
        write!(f, "to old {to_old:?}, to new {to_new:?}")
    }
}

/// All worlds that there can be.
fn explore() -> Vec<World> {
    let mut seen = HashSet::from([World::new()]);
    let mut open = vec![World::new()];
    while let Some(world) = open.pop() {
        for next in world.successors() {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen.into_iter().collect()
}

#[test]
fn in_no_order_of_events_there_are_two_servers_or_none() {
    let worlds = explore();
    let over: Vec<_> = worlds.iter().filter(|world| world.is_over()).collect();
    worlds.iter().for_each(World::check);
    over.iter().for_each(|world| world.check_end());
    // Each end is there: old goes on, new serves, new serves because old died.
    assert!(over.iter().any(|world| world.old_serves()));
    assert!(over.iter().any(|world| world.new_serves() && world.old_lives));
    assert!(over.iter().any(|world| world.new_serves() && !world.old_lives));
    assert!(worlds.len() > 100, "{} states", worlds.len());
}

/// A world in which nothing happens any more although it is not over would be a service that hangs.
#[test]
fn every_order_of_events_comes_to_an_end() {
    for world in explore() {
        let goes_on = world.successors().into_iter().any(|next| next != world);
        assert!(goes_on || world.is_over() || !world.old_lives, "stuck: {world:?}");
    }
}

#[test]
fn an_acknowledgement_after_the_deadline_changes_nothing() {
    let mut old = old::Old::begin();
    for event in [
        old::Event::Came(Kind::Hello),
        old::Event::Came(Kind::Prepared),
        old::Event::Parked,
        old::Event::SentAll,
    ] {
        assert!(!matches!(old.handle(event), None | Some(old::Action::GiveUp(_))));
    }
    assert_eq!(old.handle(old::Event::Late), Some(old::Action::GiveUp(Reason::Late)));
    assert_eq!(old.handle(old::Event::Came(Kind::Ack)), None);
    assert_eq!(old.step(), old::Step::Resumed);
}
