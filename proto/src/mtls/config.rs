//! The rustls configurations of servers and clients: TLS 1.3, no resumption, no early data.

use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls_pki_types::ServerName;

use super::{HandshakeSecrets, PeerVerifier, TlsIdentity};
use crate::crypto::provider;

/// A server's configuration for one handshake, whose client is verified by `verifier`.
pub fn server_config(
    identity: &TlsIdentity,
    verifier: Arc<PeerVerifier>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    server(identity, verifier, alpn).map(Arc::new)
}

/// [`server_config`], of a handshake that leaves its secrets in `secrets`.
pub fn server_config_with_secret_extraction(
    identity: &TlsIdentity,
    verifier: Arc<PeerVerifier>,
    alpn: &[&[u8]],
    secrets: Arc<HandshakeSecrets>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = server(identity, verifier, alpn)?;
    config.key_log = secrets;
    Ok(Arc::new(config))
}

fn server(
    identity: &TlsIdentity,
    verifier: Arc<PeerVerifier>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.resolver());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// A client's configuration for one handshake, whose server is verified by `verifier`. Without an identity the client
/// shows no certificate, as when it enrols.
pub fn client_config(
    identity: Option<&TlsIdentity>,
    verifier: Arc<PeerVerifier>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    client(identity, verifier, alpn).map(Arc::new)
}

/// [`client_config`], of a handshake that leaves its secrets in `secrets`.
pub fn client_config_with_secret_extraction(
    identity: Option<&TlsIdentity>,
    verifier: Arc<PeerVerifier>,
    alpn: &[&[u8]],
    secrets: Arc<HandshakeSecrets>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = client(identity, verifier, alpn)?;
    config.key_log = secrets;
    Ok(Arc::new(config))
}

fn client(
    identity: Option<&TlsIdentity>,
    verifier: Arc<PeerVerifier>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// The name a client gives rustls: peers are known by SPIFFE ID, so it is never sent nor compared.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}
