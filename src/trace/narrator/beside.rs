//! What happens beside the calls: the notes of the loop, and the acts of a simulated world.

use super::Narrator;
use crate::reactor::{AcceptPause, Note, Refusal};
use crate::trace::World;

impl Narrator {
    pub(super) fn note(&mut self, note: &Note) -> String {
        match note {
            Note::Command(text) => {
                let verb = text.split(' ').next().unwrap_or_default();
                format!("another thread asked for: {verb} (server/handle.rs)")
            }
            Note::Killed(id) => format!("an administrator kills {id} (server/admin/rows.rs)"),
            Note::Tick(_) => "the program had its tick (server/control.rs)".to_owned(),
            Note::Due(id) => format!(
                "the alarm of {id} came: if its deadline has passed, one last look at the socket before \
                 the time-out (server/mod.rs)"
            ),
            Note::Authenticated(id, _) => format!("{id} has authenticated (proto/connection.rs)"),
            Note::Closed(id, reason) => {
                format!("{id} has ended: {} (proto/close_reason.rs)", reason.as_str())
            }
            Note::Refused(_, Refusal::Suspect) => {
                "refused: its source failed lately, and half of the places for unauthenticated \
                 connections are taken (server/admission.rs)"
                    .to_owned()
            }
            Note::Refused(_, Refusal::OverShare) => {
                "refused: its source has its share of the places for unauthenticated connections, and half \
                 are taken (server/admission.rs)"
                    .to_owned()
            }
            Note::Refused(_, Refusal::UntrustedProxy) => {
                "refused: it may not send a PROXY header (server/proxied.rs)".to_owned()
            }
            Note::Opened(id, _) => {
                if let Some(stream) = self.accepted {
                    self.streams.insert(*id, stream);
                    self.belief(stream).id = Some(*id);
                }
                format!(
                    "it becomes {id}, and the first of its deadlines runs (proto/connection/opening.rs)"
                )
            }
            Note::Proxied(id, _) => format!(
                "the PROXY header of {id} is complete, and the client that it names is judged \
                 (server/proxied.rs)"
            ),
            Note::SetupFailed(_, fault) => {
                format!("the client cannot be served: {fault}; it is closed (server/accept.rs)")
            }
            Note::AcceptPaused(AcceptPause::Full) => {
                "accepting pauses: all places are taken (server/accept.rs)".to_owned()
            }
            Note::AcceptPaused(AcceptPause::UnauthenticatedFull) => {
                "accepting pauses: all places for unauthenticated connections are taken, and the \
                 oldest is too young to make room (server/accept.rs)"
                    .to_owned()
            }
            Note::AcceptPaused(AcceptPause::Error(fault)) => format!(
                "accepting pauses for its error, {fault}, and a timer tries again (server/accept.rs)"
            ),
        }
    }
}

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
        World::Arrives(_, unread) => format!("bytes arrive; unread now: {unread}"),
        World::Injects(fault) => format!("a fault is injected into the next call: {fault}"),
        World::Sleeps(slept, None) => format!("the loop sleeps for {slept:?}, with no limit"),
        World::Sleeps(slept, Some(leave)) => format!("the loop sleeps for {slept:?} of {leave:?}"),
        World::Passes(time) => format!("{time:?} pass"),
        World::Signals(signal) => format!("signal {signal} is sent"),
        World::Says(text) => text.clone(),
    }
}
