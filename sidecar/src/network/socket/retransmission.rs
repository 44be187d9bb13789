//! The maximum interval of TCP retransmissions and zero-window probes: `TCP_RTO_MAX_MS` (Linux 6.15). By default the
//! interval grows to two minutes, and a peer that has disappeared is detected after 15 minutes. A peer is considered
//! dead only when it acknowledges nothing. A window that stays closed is no failure (RFC 9293 §3.8.6.1), whereas
//! `TCP_USER_TIMEOUT` would treat it as one.
#![expect(
    unsafe_code,
    reason = "no crate knows this socket option: two system calls that read and write four bytes"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::OnceLock;
use std::time::Duration;

/// linux/tcp.h; libc has no name for it yet.
const TCP_RTO_MAX_MS: libc::c_int = 44;
/// Minimum value that the kernel accepts.
const RTO_MAX_MIN: Duration = Duration::from_secs(1);
/// Maximum value that the kernel accepts.
const RTO_MAX_MAX: Duration = Duration::from_secs(120);
/// Default number of retransmissions after which the kernel gives up (tcp(7), `tcp_retries2`).
const RETRIES_DEFAULT: u32 = 15;
const RETRIES_FILE: &str = "/proc/sys/net/ipv4/tcp_retries2";

/// Sets the interval so that the kernel gives up after about `dead_after` without an acknowledgement.
pub(super) fn bound(socket: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    let interval = (dead_after / (retries() + 1)).clamp(RTO_MAX_MIN, RTO_MAX_MAX);
    let milliseconds = libc::c_int::try_from(interval.as_millis()).unwrap_or(libc::c_int::MAX);
    set(socket, milliseconds)
}

/// Number of retransmissions after which this machine gives up.
fn retries() -> u32 {
    static RETRIES: OnceLock<u32> = OnceLock::new();
    *RETRIES.get_or_init(|| {
        let configured = std::fs::read_to_string(RETRIES_FILE).ok().and_then(|text| text.trim().parse().ok());
        configured.unwrap_or(RETRIES_DEFAULT)
    })
}

fn set(socket: &impl AsFd, milliseconds: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&milliseconds) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` bytes of a value that lives
    // longer.
    let set = unsafe {
        let value = (&raw const milliseconds).cast();
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, value, length)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
pub(super) fn of(socket: &impl AsFd) -> io::Result<Duration> {
    let mut milliseconds: libc::c_int = 0;
    let mut length = size_of_val(&milliseconds) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes `length` bytes at most, of one value.
    let got = unsafe {
        let (value, length) = ((&raw mut milliseconds).cast(), &raw mut length);
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, value, length)
    };
    if got == 0 {
        Ok(Duration::from_millis(milliseconds.unsigned_abs().into()))
    } else {
        Err(io::Error::last_os_error())
    }
}
