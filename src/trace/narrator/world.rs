//! Acts of a simulated world in plain words.

use crate::trace::World;

pub(super) fn world(act: &World) -> String {
    match act {
        World::Connects(_, None) => "the client connects".to_owned(),
        World::Connects(_, Some(peer)) => format!("the client connects from {}", peer.ip()),
        World::Sends { taken, offered, .. } if taken == offered => {
            format!("the client sends {taken} bytes")
        }
        World::Sends { taken, offered, .. } => {
            format!("the client sends {taken} of {offered} bytes, for more there is no room")
        }
        World::SendsUrgent(_) => "the client sends an urgent byte".to_owned(),
        World::Reads(_, n) => format!("the client reads {n} bytes"),
        World::Finishes(_) => "the client ends its stream".to_owned(),
        World::Resets(_) => "the client resets the connection".to_owned(),
        World::Vanishes(_, true) => "the client's machine stops, and will start again".to_owned(),
        World::Vanishes(_, false) => "the client's machine vanishes".to_owned(),
        World::Disconnects(_, fault) => format!("the network ends the connection: {fault}"),
        World::Arrives(_, unread) => format!("bytes arrive; {unread} are unread"),
        World::Injects(fault) => format!("a fault is injected into the next call: {fault}"),
        World::Sleeps(slept, None) => format!("the loop sleeps for {slept:?}, with no limit"),
        World::Sleeps(slept, Some(leave)) => format!("the loop sleeps for {slept:?} of {leave:?}"),
        World::Passes(time) => format!("{time:?} pass"),
        World::Signals(signal) => format!("signal {signal} is sent"),
        World::Says(text) => text.clone(),
    }
}
