//! TLS extensions by name, and which of them a certificate request may hold.

use std::fmt;

use rustls::Side;

/// A code of the registry of TLS ExtensionType values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtensionType(pub u16);

impl ExtensionType {
    /// RFC 6066 §3.
    pub const SERVER_NAME: Self = Self(0);
    /// RFC 8446 §4.2.3.
    pub const SIGNATURE_ALGORITHMS: Self = Self(13);

    /// Whether RFC 8446 §4.2 forbids it in a certificate request: we know it, and it belongs elsewhere. RFC 9261 §4
    /// lets a client ask with a server_name.
    pub(super) fn is_misplaced(self, asker: Side) -> bool {
        let elsewhere = KNOWN.iter().any(|known| known.0 == self.0 && known.2 == In::Elsewhere);
        elsewhere || (self == Self::SERVER_NAME && asker == Side::Server)
    }
}

impl fmt::Display for ExtensionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KNOWN.iter().find(|known| known.0 == self.0) {
            Some((code, name, _)) => write!(f, "{name}({code})"),
            None => write!(f, "unknown({})", self.0),
        }
    }
}

/// Where an extension may stand.
#[derive(Debug, PartialEq, Eq)]
enum In {
    /// In a certificate request, among others.
    Request,
    /// In other messages only.
    Elsewhere,
}

/// RFC 8446 §4.2, with RFC 8879 and RFC 9345.
const KNOWN: [(u16, &str, In); 24] = [
    (0, "server_name", In::Request),
    (1, "max_fragment_length", In::Elsewhere),
    (5, "status_request", In::Request),
    (10, "supported_groups", In::Elsewhere),
    (13, "signature_algorithms", In::Request),
    (14, "use_srtp", In::Elsewhere),
    (15, "heartbeat", In::Elsewhere),
    (16, "application_layer_protocol_negotiation", In::Elsewhere),
    (18, "signed_certificate_timestamp", In::Request),
    (19, "client_certificate_type", In::Elsewhere),
    (20, "server_certificate_type", In::Elsewhere),
    (21, "padding", In::Elsewhere),
    (27, "compress_certificate", In::Request),
    (34, "delegated_credential", In::Request),
    (41, "pre_shared_key", In::Elsewhere),
    (42, "early_data", In::Elsewhere),
    (43, "supported_versions", In::Elsewhere),
    (44, "cookie", In::Elsewhere),
    (45, "psk_key_exchange_modes", In::Elsewhere),
    (47, "certificate_authorities", In::Request),
    (48, "oid_filters", In::Request),
    (49, "post_handshake_auth", In::Elsewhere),
    (50, "signature_algorithms_cert", In::Request),
    (51, "key_share", In::Elsewhere),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_says_its_name_and_number() {
        assert_eq!(ExtensionType(51).to_string(), "key_share(51)");
        assert_eq!(ExtensionType(2570).to_string(), "unknown(2570)");
    }

    #[test]
    fn only_a_client_may_ask_with_a_server_name() {
        assert!(ExtensionType::SERVER_NAME.is_misplaced(Side::Server));
        assert!(!ExtensionType::SERVER_NAME.is_misplaced(Side::Client));
        assert!(!ExtensionType::SIGNATURE_ALGORITHMS.is_misplaced(Side::Server));
    }
}
