//! As many connections as one process can hold both ends of. A process of its own, because it
//! measures the memory of its process.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use common::client::{authenticated, exchange};
use saltecho::server::Server;

/// Limit of the growth in resident memory per idle authenticated connection, in bytes. Its slot
/// takes 48 (64 in a debug build), and a growing slab touches more than it fills.
const ALLOWED: usize = 128;

#[test]
fn thousands_of_connections_echo_at_once_and_use_little_memory() {
    let server = Server::builder().listen("127.0.0.1:0").spawn().unwrap();
    let address = server.addresses()[0];
    // Each connection takes two descriptors of this process; a few are for the rest.
    let descriptors = usize::try_from(rlimit::Resource::NOFILE.get_soft().unwrap()).unwrap();
    let size = ((descriptors - 100) / 2).min(10_000);
    let mut crowd: Vec<TcpStream> = Vec::with_capacity(size);
    // The first connections touch code, buffers and allocator pages that later ones share.
    crowd.extend((0..size / 100).map(|_| authenticated(address)));
    crowd.iter().for_each(|stream| assert_eq!(exchange(stream, b"x"), b"X"));
    let (few, before) = (crowd.len(), resident());
    crowd.extend((few..size).map(|_| authenticated(address)));

    for (i, mut stream) in crowd.iter().enumerate() {
        stream.write_all(format!("client {i}").as_bytes()).unwrap();
    }
    for (i, mut stream) in crowd.iter().enumerate() {
        let expected = format!("CLIENT {i}");
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected.as_bytes());
    }
    let each = resident().saturating_sub(before) / (size - few);
    println!("{size} connections, {each} bytes of resident memory each");
    assert!(each <= ALLOWED, "{each} bytes for each of {size} connections");
    let stats = server.handle().stats().unwrap();
    assert_eq!((stats.connections, stats.authenticated), (size, size as u64));
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
