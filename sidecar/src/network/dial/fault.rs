//! Errors of this machine that make a connection attempt fail. They say nothing about the address.

use std::io;

/// Description and remedy, if the error is caused by this machine.
pub(super) fn on_this_machine(error: &io::Error) -> Option<&'static str> {
    let code = error.raw_os_error()?;
    FAULTS.iter().find(|(known, _)| *known == code).map(|(_, fault)| *fault)
}

/// By errno(3) number on Linux.
const FAULTS: [(i32, &str); 13] = [
    (EMFILE, "no file descriptor is left for it (raise LimitNOFILE=)"),
    (23, "the system has no file descriptor left (ENFILE: raise fs.file-max)"),
    (12, "out of memory (ENOMEM)"),
    (105, "no buffer space (ENOBUFS)"),
    (99, "no local address or port is free for it (EADDRNOTAVAIL: net.ipv4.ip_local_port_range, ip -6 addr)"),
    (98, "the local port is in use (EADDRINUSE)"),
    (11, "no local port is free (EAGAIN: net.ipv4.ip_local_port_range)"),
    (1, "a local firewall or security module forbids it (EPERM)"),
    (13, "a local firewall, route or security module forbids it (EACCES)"),
    (101, "there is no route to it (ENETUNREACH: ip route, ip -6 route)"),
    (100, "the network is down (ENETDOWN)"),
    (97, "the system does not support this address family (EAFNOSUPPORT)"),
    (22, "the address cannot be used here (EINVAL; a link-local address needs its interface)"),
];

/// Too many open files in this process.
pub(super) const EMFILE: i32 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_errors_are_distinguished_from_errors_of_the_address() {
        for local in [EMFILE, 23, 12, 105, 99, 98, 11, 1, 13, 101, 100, 97, 22] {
            assert!(on_this_machine(&io::Error::from_raw_os_error(local)).is_some(), "{local}");
        }
        // Refused, timed out, reset, host unreachable, host down.
        for other in [111, 110, 104, 113, 112] {
            assert_eq!(on_this_machine(&io::Error::from_raw_os_error(other)), None, "{other}");
        }
        assert_eq!(on_this_machine(&io::Error::other("anything")), None);
    }
}
