//! The only place that builds TLS configurations: TLS 1.3, both sides authenticated, no resumption, no early data.

mod authorizer;
mod config;
mod exporter;
mod handshake_secrets;
mod pin;
mod rustls_verifier;
mod tls_identity;
mod traffic;
mod verdict;
mod verifier;

pub use authorizer::{AuthorizeAny, AuthorizeId, Authorizer, Denial, OVER_LIMIT, REVOKED};
pub use config::{
    client_config, client_config_with_secret_extraction, server_config, server_config_with_secret_extraction,
    server_name,
};
pub use exporter::{EXPORTER_LABEL_BYTES_MAX, ExportError, ExporterSecret, ExporterSecretError, SuiteHash};
pub use handshake_secrets::{ConnectionSecrets, HandshakeSecrets};
pub use tls_identity::TlsIdentity;
pub use traffic::{RECORD_HEADER_BYTES, RecordKey, RecordKeyError, TrafficSecret};
pub use verdict::Verdict;
pub use verifier::PeerVerifier;
