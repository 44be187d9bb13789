//! The only place that names a crypto provider and builds TLS configurations: TLS 1.3, both sides authenticated,
//! no resumption, no early data.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;
use time::OffsetDateTime;

use crate::identity::{BundlePin, PrivateKey, SpiffeId, Svid, TrustBundle, TrustBundles, TrustDomain};
use crate::identity::{Judged, Place, VerifiedSvid, VerifyError};

mod exporter;
mod handshake_secrets;
mod record_cipher;
mod signature;
mod traffic;

pub use exporter::{EXPORTER_LABEL_BYTES_MAX, ExportError, ExporterSecret, ExporterSecretError, SuiteHash};
pub use handshake_secrets::{ConnectionSecrets, HandshakeSecrets};
pub use record_cipher::RECORD_TAG_BYTES;
pub use signature::HANDSHAKE_SCHEMES;
pub(crate) use signature::verify_handshake_signature;
pub use traffic::{RECORD_HEADER_BYTES, RecordKey, RecordKeyError, TrafficSecret};

/// The cryptography of every TLS connection: TLS 1.3 suites only, X25519MLKEM768 first where aws-lc-rs is built in.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(build_provider())).clone()
}

#[cfg(feature = "aws-lc-rs")]
fn build_provider() -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    }
}

#[cfg(not(feature = "aws-lc-rs"))]
fn build_provider() -> CryptoProvider {
    use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    }
}

/// The signature algorithms that certificates and handshakes may use.
pub fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// An own identity, loaded once for any number of handshakes.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    resolver: Arc<SingleCertAndKey>,
}

impl TlsIdentity {
    /// Presents the SVID's chain.
    pub fn new(svid: &Svid) -> Result<Self, rustls::Error> {
        Self::with_roots(svid, &[])
    }

    /// Presents the SVID's chain followed by `roots`, so that a client that holds only a pin can check them.
    pub fn with_roots(svid: &Svid, roots: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let chain = [svid.chain(), roots].concat();
        let certified = Arc::new(certified_key(&chain, svid.key())?);
        Ok(Self { resolver: Arc::new(SingleCertAndKey::from(certified.clone())), certified })
    }
}

/// Loads a chain and its key; an error where they do not belong together.
pub(crate) fn certified_key(
    chain: &[CertificateDer<'static>],
    key: &PrivateKey,
) -> Result<CertifiedKey, rustls::Error> {
    let key = provider().key_provider.load_private_key(key.der().clone_key())?;
    let certified = CertifiedKey::new(chain.to_vec(), key);
    certified.keys_match()?;
    Ok(certified)
}

/// A server's configuration for one handshake, whose client is judged by `judge`.
pub fn server_config(
    identity: &TlsIdentity,
    judge: Arc<Judge>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    server(identity, judge, alpn).map(Arc::new)
}

/// [`server_config`], of a handshake that leaves its secrets in `secrets`.
pub fn server_config_yielding(
    identity: &TlsIdentity,
    judge: Arc<Judge>,
    alpn: &[&[u8]],
    secrets: Arc<HandshakeSecrets>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = server(identity, judge, alpn)?;
    config.key_log = secrets;
    Ok(Arc::new(config))
}

fn server(identity: &TlsIdentity, judge: Arc<Judge>, alpn: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(judge)
        .with_cert_resolver(identity.resolver.clone());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// A client's configuration for one handshake, whose server is judged by `judge`. Without an identity the client
/// shows no certificate, as when it enrols.
pub fn client_config(
    identity: Option<&TlsIdentity>,
    judge: Arc<Judge>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    client(identity, judge, alpn).map(Arc::new)
}

/// [`client_config`], of a handshake that leaves its secrets in `secrets`.
pub fn client_config_yielding(
    identity: Option<&TlsIdentity>,
    judge: Arc<Judge>,
    alpn: &[&[u8]],
    secrets: Arc<HandshakeSecrets>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = client(identity, judge, alpn)?;
    config.key_log = secrets;
    Ok(Arc::new(config))
}

fn client(
    identity: Option<&TlsIdentity>,
    judge: Arc<Judge>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(judge);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver.clone()),
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

/// Whom a party lets in, once the certificate is believed.
pub trait Admission: fmt::Debug + Send + Sync {
    /// Admits the peer, or says why not; the handshake then ends with the alert `access_denied`.
    fn admit(&self, peer: &VerifiedSvid) -> Result<(), Denial>;
}

/// Why a party with a good certificate is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct Denial {
    /// A stable word for logs, metrics and JSON.
    pub code: &'static str,
    /// The whole reason, in words.
    pub detail: String,
}

/// The code of a denial whose reason is that the peer's identity is revoked: the peer is told by its TLS alert.
pub const REVOKED: &str = "revoked";
/// The code of a [`Denial`] that says nothing about the peer's rights: it has as many connections as one may have.
pub const OVER_LIMIT: &str = "connections_per_peer_max";

/// Admits exactly one identity: what an outbound connection demands of its server.
#[derive(Debug, Clone)]
pub struct Exactly(pub SpiffeId);

impl Admission for Exactly {
    fn admit(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        if *peer.id() == self.0 {
            return Ok(());
        }
        let detail = format!("expected {}, found {}", self.0, peer.id());
        Err(Denial { code: "wrong_identity", detail })
    }
}

/// Admits every identity whose certificate is believed; what it may do is decided later.
#[derive(Debug, Clone, Copy)]
pub struct Anyone;

impl Admission for Anyone {
    fn admit(&self, _: &VerifiedSvid) -> Result<(), Denial> {
        Ok(())
    }
}

/// What one handshake's judge found out about the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Certificate believed, peer admitted.
    Admitted(VerifiedSvid),
    /// Certificate believed, peer not admitted.
    Denied(VerifiedSvid, Denial),
    /// Certificate not believed.
    Unverified(VerifyError),
    /// The pinned bundle is not the one the server showed.
    WrongPin {
        /// What the join token carries.
        expected: BundlePin,
        /// What the server's roots hash to.
        found: BundlePin,
    },
}

/// Judges the peer of one handshake and keeps what it found, so that a refusal can be explained afterwards.
#[derive(Debug)]
pub struct Judge {
    trust: Trust,
    admission: Arc<dyn Admission>,
    presence: Presence,
    expired_for_max: Duration,
    verdict: OnceLock<Verdict>,
    /// Remembered once the peer has proved that it holds the key.
    judged: OnceLock<Judged>,
}

#[derive(Debug)]
enum Trust {
    Bundles(Arc<TrustBundles>),
    Pin(TrustDomain, BundlePin),
}

#[derive(Debug, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

impl Judge {
    /// Believes what `bundles` vouch for, and admits whom `admission` admits.
    pub fn new(bundles: Arc<TrustBundles>, admission: Arc<dyn Admission>) -> Self {
        Self::with_trust(Trust::Bundles(bundles), admission)
    }

    /// Believes a server that shows, behind its chain, the roots that hash to `pin`, and is that domain's CA.
    pub fn pinned(trust_domain: TrustDomain, pin: BundlePin) -> Self {
        let ca = Exactly(SpiffeId::of_ca(&trust_domain));
        Self::with_trust(Trust::Pin(trust_domain, pin), Arc::new(ca))
    }

    fn with_trust(trust: Trust, admission: Arc<dyn Admission>) -> Self {
        let (verdict, judged) = (OnceLock::new(), OnceLock::new());
        Self {
            trust,
            admission,
            presence: Presence::Required,
            expired_for_max: Duration::ZERO,
            verdict,
            judged,
        }
    }

    /// Lets clients without a certificate connect, too; [`Self::verdict`] then stays empty.
    pub fn certificate_optional(mut self) -> Self {
        self.presence = Presence::Optional;
        self
    }

    /// Believes a leaf that was valid until at most this long ago: only for a CA that lets workloads renew after a
    /// long sleep. The finding carries the true end of validity.
    pub fn expired_for_at_most(mut self, duration: Duration) -> Self {
        self.expired_for_max = duration;
        self
    }

    /// What was found; nothing before the peer has shown a certificate.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.get()
    }

    /// The peer, if it was admitted.
    pub fn admitted(&self) -> Option<&VerifiedSvid> {
        match self.verdict() {
            Some(Verdict::Admitted(peer)) => Some(peer),
            _ => None,
        }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let borrowed = |der| CertificateDer::from(<CertificateDer<'_> as AsRef<[u8]>>::as_ref(der));
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).map(borrowed).collect();
        let verdict = self.weigh(&chain, now);
        let result = match &verdict {
            Verdict::Admitted(_) => Ok(()),
            // RFC 8446 §6.2 has an alert of its own for it.
            Verdict::Denied(_, denial) if denial.code == REVOKED => Err(CertificateError::Revoked.into()),
            // Another alert than for what the policy says: rustls makes `handshake_failure` of it (RFC 8446 §6.2).
            Verdict::Denied(_, denial) if denial.code == OVER_LIMIT => {
                Err(rustls::Error::General(denial.detail.clone()))
            }
            Verdict::Denied(..) => Err(CertificateError::ApplicationVerificationFailure.into()),
            Verdict::Unverified(error) => Err(certificate_error(error).into()),
            Verdict::WrongPin { .. } => Err(CertificateError::UnknownIssuer.into()),
        };
        // One judge serves one handshake; should rustls ask twice, the first finding stands.
        let _already_set = self.verdict.set(verdict);
        result
    }

    fn weigh(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Verdict {
        let now = match i64::try_from(now.as_secs()).map(OffsetDateTime::from_unix_timestamp) {
            Ok(Ok(now)) => now,
            _ => OffsetDateTime::UNIX_EPOCH,
        };
        let pinned;
        let bundles = match &self.trust {
            Trust::Bundles(bundles) => bundles.as_ref(),
            Trust::Pin(trust_domain, pin) => match pinned_bundle(trust_domain, *pin, chain) {
                Ok(bundles) => {
                    pinned = bundles;
                    &pinned
                }
                Err(verdict) => return *verdict,
            },
        };
        let judged = match self.judge_with_grace(chain, bundles, now) {
            Err(error) => return Verdict::Unverified(error),
            Ok(judged) => judged,
        };
        let peer = judged.svid().clone();
        match self.admission.admit(&peer) {
            Err(denial) => Verdict::Denied(peer, denial),
            Ok(()) => {
                let _already_set = self.judged.set(judged);
                Verdict::Admitted(peer)
            }
        }
    }

    fn judge_with_grace(
        &self,
        chain: &[CertificateDer<'_>],
        bundles: &TrustBundles,
        now: OffsetDateTime,
    ) -> Result<Judged, VerifyError> {
        match bundles.judge(chain, now) {
            Err(VerifyError::Expired { not_after, .. }) if now - not_after <= self.expired_for_max => {
                bundles.judge(chain, not_after)
            }
            result => result,
        }
    }

    /// The proof of possession (RFC 8446 §4.4.3), asked for in each handshake.
    fn check_possession(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, cert, signature, &signature_algorithms())?;
        if let Some(judged) = self.judged.get() {
            judged.remember();
        }
        Ok(valid)
    }
}

/// The bundle of self-issued certificates in the chain, if it is the pinned one.
fn pinned_bundle(
    trust_domain: &TrustDomain,
    pin: BundlePin,
    chain: &[CertificateDer<'_>],
) -> Result<TrustBundles, Box<Verdict>> {
    let roots = chain.iter().filter(|der| is_self_issued(der)).map(|der| der.clone().into_owned());
    let bundle = TrustBundle::new(trust_domain.clone(), roots.collect()).map_err(|error| {
        let detail = error.to_string();
        Box::new(Verdict::Unverified(VerifyError::Malformed { place: Place::Root, detail }))
    })?;
    if bundle.pin() != pin {
        return Err(Box::new(Verdict::WrongPin { expected: pin, found: bundle.pin() }));
    }
    Ok([bundle].into_iter().collect())
}

fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(der).is_ok_and(|cert| cert.issuer() == cert.subject())
}

/// The rustls error whose alert says most precisely what is wrong (RFC 8446 §6.2).
fn certificate_error(error: &VerifyError) -> CertificateError {
    match error {
        VerifyError::Expired { .. } | VerifyError::IssuerExpired => CertificateError::Expired,
        VerifyError::NotYetValid { .. } | VerifyError::IssuerNotYetValid => CertificateError::NotValidYet,
        VerifyError::UnknownTrustDomain { .. }
        | VerifyError::NoUsableRoot { .. }
        | VerifyError::IssuerPassedOver { .. }
        | VerifyError::UnknownIssuer => CertificateError::UnknownIssuer,
        VerifyError::BadSignature => CertificateError::BadSignature,
        VerifyError::ExtendedKeyUsage { .. } => CertificateError::InvalidPurpose,
        VerifyError::Malformed { .. }
        | VerifyError::PathMalformed { .. }
        | VerifyError::RepeatedExtension { .. }
        | VerifyError::Serial { .. }
        | VerifyError::SignatureAlgorithmMismatch { .. } => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    }
}

const NO_TLS12: &str = "TLS 1.2 is never offered";

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.presence == Presence::Required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_possession(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_possession(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}
