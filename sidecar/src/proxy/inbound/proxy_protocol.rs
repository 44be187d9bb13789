//! The PROXY protocol, version 2 (haproxy's proxy-protocol.txt §2.2): passes the peer's address and identity to a
//! `tcp` app.

use std::io;
use std::net::{IpAddr, SocketAddr};

use postern_proto::identity::SpiffeId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Sends the header, before anything else, to an app that has just been connected to.
pub(super) async fn announce(app: &mut TcpStream, peer: &TcpStream, id: &SpiffeId) -> io::Result<()> {
    let (from, to) = (canonical(peer.peer_addr()?), canonical(peer.local_addr()?));
    app.write_all(&header(from, to, id)).await
}

/// For a connection from the peer at `from` to this sidecar at `to`. If the address families differ, both are sent as
/// IPv6.
fn header(from: SocketAddr, to: SocketAddr, id: &SpiffeId) -> Vec<u8> {
    let (family, addresses) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (TCP_OVER_IPV4, [from.octets(), to.octets()].concat()),
        (from, to) => (TCP_OVER_IPV6, [octets_v6(from), octets_v6(to)].concat()),
    };
    let version = tlv(PP2_SUBTYPE_SSL_VERSION, b"TLSv1.3");
    // The peer presented a certificate in this session, and it was verified (verify = 0).
    let tls =
        [&[CLIENT_TLS | CLIENT_CERT_CONNECTION | CLIENT_CERT_SESSION, 0, 0, 0, 0], &version[..]].concat();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let rest =
        [addresses, ports, tlv(PP2_TYPE_SSL, &tls), tlv(TYPE_SPIFFE_ID, id.as_str().as_bytes())].concat();
    [SIGNATURE, &[VERSION_2_PROXY, family], &length(&rest), &rest].concat()
}

/// Type, length, value.
fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &length(value)[..], value].concat()
}

/// A SPIFFE ID has at most 2,048 bytes, and all else a few.
fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

fn octets_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const PP2_TYPE_SSL: u8 = 0x20;
const PP2_SUBTYPE_SSL_VERSION: u8 = 0x21;
const CLIENT_TLS: u8 = 0x01;
const CLIENT_CERT_CONNECTION: u8 = 0x02;
const CLIENT_CERT_SESSION: u8 = 0x04;
/// The first of the types for applications' own use (§2.2.7, PP2_TYPE_MIN_CUSTOM): the peer's SPIFFE ID.
const TYPE_SPIFFE_ID: u8 = 0xe0;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(from: &str, to: &str) -> Vec<u8> {
        let id = "spiffe://shop.example/orders".parse().unwrap();
        header(canonical(from.parse().unwrap()), canonical(to.parse().unwrap()), &id)
    }

    /// The TLVs of the example, as any peer of this domain and name has them.
    const TLVS: &[u8] =
        b"\x20\x00\x0f\x07\0\0\0\0\x21\x00\x07TLSv1.3\xe0\x00\x1cspiffe://shop.example/orders";

    #[test]
    fn an_ipv4_peer_is_told_with_addresses_ports_tls_and_identity() {
        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x3d".to_vec();
        wanted.extend(b"\x0a\x00\x00\x01\x0a\x00\x00\x02\x30\x39\x20\xfb");
        wanted.extend(TLVS);
        assert_eq!(of("10.0.0.1:12345", "10.0.0.2:8443"), wanted);
        assert_eq!(
            of("[::ffff:10.0.0.1]:12345", "[::ffff:10.0.0.2]:8443"),
            wanted,
            "it called a [::] listener"
        );
        assert_eq!(wanted.len(), 16 + 0x3d);
    }

    #[test]
    fn an_ipv6_peer_has_its_own_family() {
        let header = of("[fd00::1]:1", "[fd00::2]:2");
        assert_eq!(header[13], TCP_OVER_IPV6);
        assert_eq!(&header[16..32], "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert!(header.ends_with(TLVS));
        assert_eq!(usize::from(u16::from_be_bytes([header[14], header[15]])), header.len() - 16);
    }
}
