//! The chunks of a handover, as another process might send them.

use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::Config;
use saltecho::server::Limits;
use saltecho::server::handover::{Decoder, Kind, Thawing, Totals};
use saltecho::sim::{Faults, SimKernel, SimMoved};

use super::world::handler::UpperHandler;

/// Sockets that may arrive.
const CLIENTS: usize = 256;
/// More slots would only take memory.
const MOST_SLOTS: u32 = 4096;

/// Reads the input as chunks: kind, number of records, their size, length of the payload in two bytes,
/// payload. What is taken is restored.
pub fn handover_chunks(mut input: &[u8]) {
    let mut kernel = SimKernel::new(1, Faults::none());
    kernel.pass(Duration::from_secs(3600));
    let clients: Vec<_> = (0..CLIENTS).map(|_| kernel.connect(100, 100, 100)).collect();
    let (mut decoder, mut totals) = (Decoder::new(), Totals::default());
    while let [kind, count, size, low, high, rest @ ..] = input {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        let (payload, rest) = rest.split_at(len.min(rest.len()));
        input = rest;
        let known = Kind::from_code(*kind);
        if known == Some(Kind::Loop) && slots(payload).is_none_or(|slots| slots > MOST_SLOTS) {
            return;
        }
        let next = usize::try_from(totals.connections).unwrap();
        let sockets = (0..usize::from(*count)).map_while(|index| match known? {
            Kind::Listener => Some(SimMoved::Listener),
            Kind::AdminListener => Some(SimMoved::AdminListener),
            Kind::Connection => clients.get(next + index).map(|client| SimMoved::Stream(*client)),
            _ => None,
        });
        let (sockets, size) = (sockets.collect(), u16::from(*size));
        if decoder.take(*kind, (*count).into(), size, payload, sockets).is_err() {
            return;
        }
        totals.chunks += 1;
        let counter = match known.expect("it was taken") {
            Kind::Loop => &mut totals.loops,
            Kind::Listener => &mut totals.listeners,
            Kind::Connection => &mut totals.connections,
            Kind::Unsent => {
                totals.unsent += (len - usize::from(*count) * usize::from(size)) as u64;
                continue;
            }
            _ => continue,
        };
        *counter += u64::from(*count);
    }
    let Ok(arrived) = decoder.finish(&totals) else { return };
    let connections = arrived.connections();
    let mut loops = arrived.spread(1, |socket| Ok(*socket)).unwrap();
    let (config, limits) = (Config::new(Keyring::demo()), Limits::for_connections(CLIENTS));
    let mut thawing = Thawing::new(kernel, config, limits, UpperHandler::new()).unwrap();
    if thawing.restore(loops.remove(0)).is_ok() {
        assert_eq!(thawing.commit().stats().connections, connections);
    }
}

fn slots(head: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(head.get(12..16)?.try_into().ok()?))
}
