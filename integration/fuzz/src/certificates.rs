//! Certificates, keys, and proofs of them.

use std::sync::LazyLock;

use postern_proto::authenticator::{CONTEXT_BYTES, Expected, Request, judge};
use postern_proto::identity::{
    PrivateKey, SpiffeId, TrustBundles, TrustDomain, certificates_from_pem, verify,
};
use postern_proto::mtls::{ExporterSecret, SuiteHash};
use rustls::Side;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use time::macros::datetime;

/// When the corpus is valid.
const NOW: OffsetDateTime = datetime!(2026-12-01 12:00 UTC);
const ID: &str = "spiffe://shop.example/orders";

/// The roots of the corpus.
static BUNDLES: LazyLock<TrustBundles> =
    LazyLock::new(|| TrustBundles::from_pem(&domain(), include_bytes!("../corpus/root.pem")).unwrap());

fn domain() -> TrustDomain {
    TrustDomain::new("shop.example").unwrap()
}

/// Certificates, each after its length in two octets.
fn certificates(mut data: &[u8]) -> Vec<CertificateDer<'_>> {
    let mut chain = Vec::new();
    while let Some(([high, low], rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (der, rest) = rest.split_at(length);
        chain.push(CertificateDer::from(der));
        data = rest;
    }
    chain
}

/// A refusal is a sentence with a code; what is accepted is of the trust domain whose root vouches.
pub fn chain(data: &[u8]) {
    match verify(&certificates(data), &BUNDLES, NOW) {
        Ok(svid) => assert_eq!(svid.id().trust_domain(), &domain()),
        Err(error) => assert!(!error.code().is_empty() && error.to_string().len() < 64 * 1024),
    }
}

/// A file is read in one way, wherever its lines end.
pub fn bundle(data: &[u8]) {
    let read = certificates_from_pem(data);
    if let Ok(certificates) = &read {
        let unix = data.iter().copied().filter(|byte| *byte != b'\r').collect::<Vec<_>>();
        if !data.contains(&b'\r') {
            let windows: Vec<u8> = data
                .iter()
                .flat_map(|byte| if *byte == b'\n' { vec![b'\r', b'\n'] } else { vec![*byte] })
                .collect();
            assert_eq!(certificates_from_pem(&windows).as_ref(), Ok(certificates));
        } else if !unix.is_empty() {
            drop(certificates_from_pem(&unix));
        }
    }
    if let Ok(bundles) = TrustBundles::from_pem(&domain(), data) {
        assert!(bundles.iter().all(|bundle| !bundle.roots().is_empty()));
        drop(verify(&[], &bundles, NOW));
    }
}

/// A reason never repeats the text.
pub fn private_key(data: &[u8]) {
    if let Err(error) = PrivateKey::from_pem(data) {
        assert!(error.to_string().len() < data.len() + 512);
    }
}

/// Nobody proves what they do not hold: the connection's secret is not in the corpus.
pub fn authenticator(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let side = if kind & 1 == 0 { Side::Client } else { Side::Server };
    if kind & 2 == 0 {
        if let Ok(request) = Request::parse(side, data) {
            assert_eq!(request.as_bytes(), data);
        }
        return;
    }
    let id = SpiffeId::parse(ID).unwrap();
    let expected = Expected { id: &id, bundles: &BUNDLES, now: NOW };
    let secret = ExporterSecret::new(SuiteHash::Sha256, &[7; 32]).unwrap();
    let judged = judge(&secret, Request::new(side, [0x5a; CONTEXT_BYTES]), data, expected);
    assert!(judged.is_err());
}
