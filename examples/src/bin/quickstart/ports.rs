//! Free ports, for programs whose configuration must name one before they start.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context as _;

/// Below the range from which the kernel takes ports for outgoing connections, so that none is taken meanwhile.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A loopback address on which nothing listens. Each process starts to look at a place of its own.
pub(crate) fn free() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 41 % u32::from(COUNT))?;
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .context("no loopback port is free")
}
