//! An authority, and handshakes in memory, for tests and benchmarks of TLS.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test says no by a panic")]

use std::sync::Arc;

use postern_proto::identity::{PrivateKey, Svid, TrustBundle, TrustBundles, TrustDomain};
use postern_proto::mtls::{Anyone, Judge, TlsIdentity, client_config, server_config, server_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ClientConnection, Error, ServerConnection};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

/// A root that issues leaves, as of now.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub root: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub fn bundles(&self) -> Arc<TrustBundles> {
        let domain = TrustDomain::new("shop.example").unwrap();
        Arc::new([TrustBundle::new(domain, vec![self.root.clone()]).unwrap()].into_iter().collect())
    }

    pub fn svid(&self, path: &str, ended: Duration) -> Svid {
        let (key, now) = (KeyPair::generate().unwrap(), OffsetDateTime::now_utc());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(format!("spiffe://shop.example{path}").try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (now - Duration::hours(9), now + Duration::hours(1) - ended);
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKey::from_pkcs8(key.serialize_der());
        Svid::new(chain, key, &self.bundles(), now - Duration::hours(8)).unwrap()
    }

    pub fn identity(&self, path: &str) -> TlsIdentity {
        TlsIdentity::new(&self.svid(path, Duration::ZERO)).unwrap()
    }

    pub fn judge(&self) -> Judge {
        Judge::new(self.bundles(), Arc::new(Anyone))
    }
}

/// Passes bytes to and fro until both are silent; the first error of either side ends it.
pub fn shake_hands(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), (&'static str, Error)> {
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            if let Err(error) = server.process_new_packets() {
                // The server's last word is its alert; the client's error shows which.
                let mut alert = Vec::new();
                server.write_tls(&mut alert).unwrap();
                client.read_tls(&mut alert.as_slice()).unwrap();
                return Err(match client.process_new_packets() {
                    Err(told) => ("server", told),
                    Ok(_) => ("server", error),
                });
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets().map_err(|error| ("client", error))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

/// Two that shake hands.
#[derive(Debug)]
pub struct Pair {
    pub client: Option<TlsIdentity>,
    pub server: TlsIdentity,
    pub client_judge: Arc<Judge>,
    pub server_judge: Arc<Judge>,
}

impl Pair {
    pub fn new(authority: &Authority) -> Self {
        Self {
            client: Some(authority.identity("/orders")),
            server: authority.identity("/payments"),
            client_judge: Arc::new(authority.judge()),
            server_judge: Arc::new(authority.judge()),
        }
    }

    pub fn connect(&self) -> Result<(ClientConnection, ServerConnection), (&'static str, Error)> {
        let client = client_config(self.client.as_ref(), self.client_judge.clone(), &[]).unwrap();
        let server = server_config(&self.server, self.server_judge.clone(), &[]).unwrap();
        let mut client = ClientConnection::new(client, server_name()).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        shake_hands(&mut client, &mut server).map(|()| (client, server))
    }
}
