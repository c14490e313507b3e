//! Bytes into the admin endpoint, through the loop.

use std::time::Duration;

use saltecho::auth::Keyring;
use saltecho::proto::Config;
use saltecho::python::Monotonic;
use saltecho::random::SplitMix;
use saltecho::server::Limits;
use saltecho::sim::{Faults, Seen, SimClient, SimKernel};

use super::world::World;
use super::world::client::Client;

/// Clients of the endpoint that send the input in pieces and read slowly, while one of the service
/// is served in every turn. The input's first bytes are their number, the length of a piece, and how
/// much one reads at once.
pub fn admin_endpoint(input: &[u8]) {
    let [number, piece, read, bytes @ ..] = input else { return };
    let (number, piece) = (1 + usize::from(number % 10), 1 + usize::from(*piece));
    let read = 1 + 16 * usize::from(*read);
    let mut world = world();
    let share = bytes.len().div_ceil(number).max(1);
    let mut parts: Vec<(SimClient, &[u8])> = Vec::new();
    for part in (0..number).map(|index| bytes.chunks(share).nth(index).unwrap_or_default()) {
        let end = world.server.kernel_mut().connect_admin(1 << 14, 1 << 12, 1 << 14);
        parts.push((end, part));
    }
    while parts.iter().any(|(_, part)| !part.is_empty()) {
        for (end, part) in &mut parts {
            let kernel = world.server.kernel_mut();
            let n = kernel.client_send(*end, &part[..piece.min(part.len())]);
            *part = &part[n..];
            if n == 0 && !part.is_empty() && !kernel.is_served(*end) {
                *part = &[]; // It waits in the queue with a full buffer.
            }
            let _ = kernel.client_recv(*end, read);
        }
        if !serve(&mut world) {
            return;
        }
    }
    finish(&mut world, &parts);
}

/// A server with an endpoint and a client whose conversation goes on meanwhile.
fn world() -> World {
    let mut limits = Limits::for_connections(4);
    (limits.unauthenticated, limits.drain_timeout) = (4, None);
    let kernel = SimKernel::new(1, Faults::none());
    let config = Config::new(Keyring::demo());
    let mut world = World::new(kernel, config, limits, SplitMix::new(1));
    world.open_admin();
    // Whatever the input asks for is right.
    world.judge.kills.extend(1..10);
    world.judge.draining = Some(Monotonic::ZERO);
    let end = world.server.kernel_mut().connect(1000, 1000, 1000);
    world.clients.push(Client::new(end, true, 0));
    for _ in 0..4 {
        assert!(serve(&mut world));
    }
    world
}

/// A turn, and a message of the service's client, which has to be answered in it. False once the
/// server has ended.
fn serve(world: &mut World) -> bool {
    let (client, kernel) = (&mut world.clients[0], world.server.kernel_mut());
    if client.digest.is_empty() && !client.challenge.is_empty() {
        client.input_left = 3;
    }
    client.send(kernel, &mut world.random, usize::MAX);
    let goes_on = world.turn();
    let (client, kernel) = (&mut world.clients[0], world.server.kernel_mut());
    client.read(kernel, usize::MAX);
    if goes_on && kernel.is_served(client.end) && kernel.ledger(client.end).shut_down_at.is_none() {
        assert_eq!(client.got.len(), client.sent.len(), "the service waits for the endpoint");
    }
    goes_on
}

/// The clients finish, and within the endpoint's time limits all are gone.
fn finish(world: &mut World, parts: &[(SimClient, &[u8])]) {
    for (end, _) in parts {
        world.server.kernel_mut().client_finish(*end);
    }
    world.server.kernel_mut().set_patience(Duration::from_millis(500));
    for _ in 0..3000 {
        let kernel = world.server.kernel_mut();
        if kernel.open_admin_streams() == 0 && kernel.queued_admin_clients() == 0 {
            return;
        }
        for (end, _) in parts {
            while !matches!(
                world.server.kernel_mut().client_recv(*end, usize::MAX),
                Err(Seen::Nothing | Seen::End | Seen::Reset)
            ) {}
        }
        if !world.turn() {
            return;
        }
    }
    panic!("clients of the endpoint have left, and it still serves them");
}
