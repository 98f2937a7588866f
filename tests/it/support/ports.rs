//! Addresses for servers that do not report theirs, and for servers that start later.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range from which systems assign ports to connections and to listeners on port 0, so none of
/// these can take the address before its server listens.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A local address on which nothing listens. Each call returns another one.
pub(crate) fn unused_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Processes that run at the same time begin at different places.
    let begin = u16::try_from(std::process::id().wrapping_mul(257) % u32::from(count)).unwrap();
    (0..count)
        .find_map(|_| {
            let next = NEXT.fetch_add(1, Ordering::Relaxed) % count;
            let port = PORTS.start + (begin + next) % count;
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?.local_addr().ok()
        })
        .expect("a port is free")
}
