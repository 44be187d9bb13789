//! One connection on which one side asks the other, as good as it can be until a test spoils it.

use postern_proto::authenticator::{
    AuthenticatorError, CONTEXT_BYTES, Expected, Request, authenticate, judge,
};
use postern_proto::identity::{SpiffeId, Svid, VerifiedSvid};
use postern_proto::mtls::{ExporterSecret, SuiteHash, TlsIdentity};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};
use rustls::Side;
use time::{Duration, OffsetDateTime};

use crate::support::NOW;
use crate::support::authority::Authority;

pub(crate) const KEYS: [&SignatureAlgorithm; 3] =
    [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
pub(crate) const HASHES: [SuiteHash; 2] = [SuiteHash::Sha256, SuiteHash::Sha384];
pub(crate) const ASKERS: [Side; 2] = [Side::Client, Side::Server];
pub(crate) const CONTEXT: [u8; CONTEXT_BYTES] = [0x5a; CONTEXT_BYTES];

pub(crate) struct Case {
    pub(crate) authority: Authority,
    pub(crate) svid: Svid,
    pub(crate) asker: Side,
    pub(crate) hash: SuiteHash,
    /// The exporter_master_secret.
    pub(crate) secret: Vec<u8>,
    pub(crate) expected: SpiffeId,
    pub(crate) now: OffsetDateTime,
}

impl Case {
    pub(crate) fn new(asker: Side, hash: SuiteHash, key: &'static SignatureAlgorithm) -> Self {
        let authority = Authority::default();
        let valid = (NOW - Duration::hours(1), NOW + Duration::hours(1));
        let svid = authority.svid_of(key, "/orders", valid);
        let secret = (0..hash.output_bytes()).map(|at| at as u8).collect();
        let expected = SpiffeId::parse("spiffe://shop.example/orders").unwrap();
        Self { authority, svid, asker, hash, secret, expected, now: NOW }
    }

    /// Every asker, hash and kind of key.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let each = |asker| HASHES.map(|hash| KEYS.map(|key| Self::new(asker, hash, key)));
        ASKERS.into_iter().flat_map(each).flatten()
    }

    pub(crate) fn exporter(&self) -> ExporterSecret {
        ExporterSecret::new(self.hash, &self.secret).unwrap()
    }

    /// The one request of this case, each time anew.
    pub(crate) fn request(&self) -> Request {
        Request::new(self.asker, CONTEXT)
    }

    pub(crate) fn identity(&self) -> TlsIdentity {
        TlsIdentity::new(&self.svid).unwrap()
    }

    pub(crate) fn authenticator(&self) -> Vec<u8> {
        authenticate(&self.exporter(), &self.request(), &self.identity()).unwrap()
    }

    pub(crate) fn judge(&self, bytes: &[u8]) -> Result<VerifiedSvid, AuthenticatorError> {
        self.judge_answer_to(self.request(), bytes)
    }

    pub(crate) fn judge_answer_to(
        &self,
        request: Request,
        bytes: &[u8],
    ) -> Result<VerifiedSvid, AuthenticatorError> {
        let bundles = self.authority.bundles();
        let expected = Expected { id: &self.expected, bundles: &bundles, now: self.now };
        judge(&self.exporter(), request, bytes, expected)
    }
}

impl Default for Case {
    fn default() -> Self {
        Self::new(Side::Server, SuiteHash::Sha256, &PKCS_ECDSA_P256_SHA256)
    }
}
