//! How far apart the kernel sends again what nobody acknowledges, and probes a closed window: `TCP_RTO_MAX_MS` (Linux
//! 6.15). By default both drift apart up to two minutes, and an other side that has vanished is found after a quarter of
//! an hour. Either way it is only found dead when it acknowledges nothing: a window that is closed for long is none of that
//! (RFC 9293 §3.8.6.1), as it would be by `TCP_USER_TIMEOUT`.
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
/// The kernel takes no less.
const RTO_MAX_MIN: Duration = Duration::from_secs(1);
/// ...and no more.
const RTO_MAX_MAX: Duration = Duration::from_secs(120);
/// After so many unanswered tries the kernel gives up, where the machine does not say otherwise (tcp(7), `tcp_retries2`).
const RETRIES_DEFAULT: u32 = 15;
const RETRIES_FILE: &str = "/proc/sys/net/ipv4/tcp_retries2";

/// Chooses the distance so that an other side that acknowledges nothing is given up after about `dead_after`.
pub(super) fn bound(socket: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    let distance = (dead_after / (retries() + 1)).clamp(RTO_MAX_MIN, RTO_MAX_MAX);
    let milliseconds = libc::c_int::try_from(distance.as_millis()).unwrap_or(libc::c_int::MAX);
    set(socket, milliseconds)
}

/// How often this machine tries before it gives up.
fn retries() -> u32 {
    static RETRIES: OnceLock<u32> = OnceLock::new();
    *RETRIES.get_or_init(|| {
        let said = std::fs::read_to_string(RETRIES_FILE).ok().and_then(|text| text.trim().parse().ok());
        said.unwrap_or(RETRIES_DEFAULT)
    })
}

fn set(socket: &impl AsFd, milliseconds: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&milliseconds) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` bytes of a value that lives longer.
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
