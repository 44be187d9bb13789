use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;

const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 4, 0, 0x23];
const SECP256K1: &[u8] = &[0x2b, 0x81, 4, 0, 10];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519_KEY: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, content].concat()
}

fn oid(octets: &[u8]) -> Vec<u8> {
    element(6, &[octets])
}

fn key_info(algorithm: &[u8], parameters: &[u8], unused_bits: u8, point: &[u8]) -> Vec<u8> {
    element(0x30, &[&element(0x30, &[&oid(algorithm), parameters]), &element(3, &[&[unused_bits], point])])
}

/// A P-256 key that signs whatever is put together around it.
struct Holder(EcdsaKeyPair);

impl Holder {
    fn new() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap())
    }

    fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn own_info(&self) -> Vec<u8> {
        key_info(EC_PUBLIC_KEY, &oid(P256), 0, self.point())
    }

    fn request(&self, info: &[u8], subject: &[u8], attributes: &[u8], algorithm: &[u8]) -> Vec<u8> {
        let wanted = element(0x30, &[&[2, 1, 0], subject, info, &element(0xa0, &[attributes])]);
        let signature = self.0.sign(&SystemRandom::new(), &wanted).unwrap();
        let algorithm = element(0x30, &[&oid(algorithm)]);
        element(0x30, &[&wanted, &algorithm, &element(3, &[&[0], signature.as_ref()])])
    }

    fn with_key(&self, info: &[u8]) -> Vec<u8> {
        self.request(info, &element(0x30, &[]), &[], ECDSA_SHA256)
    }

    /// Asks for a SAN extension with these names.
    fn with_names(&self, names: &[u8]) -> Vec<u8> {
        let extension =
            element(0x30, &[&oid(SUBJECT_ALTERNATIVE_NAME), &element(4, &[&element(0x30, &[names])])]);
        let value = element(0x31, &[&element(0x30, &[&extension])]);
        let attribute = element(0x30, &[&oid(EXTENSION_REQUEST), &value]);
        self.request(&self.own_info(), &element(0x30, &[]), &attribute, ECDSA_SHA256)
    }
}

fn refusal(der: &[u8]) -> CsrError {
    Csr::parse(der).unwrap_err()
}

#[test]
fn a_request_written_by_hand_is_read_and_only_its_key_is_taken() {
    let holder = Holder::new();
    let csr = Csr::parse(&holder.with_key(&holder.own_info())).unwrap();
    assert_eq!(csr.public_key_info(), holder.own_info());
    assert!(csr.into_ignored().is_empty());
}

#[test]
fn a_key_that_is_not_written_in_the_one_way_is_refused_though_it_is_well_signed() {
    let holder = Holder::new();
    let point = holder.point();
    let parity = 2 + (point[64] & 1);
    let compressed = [&[parity], &point[1..33]].concat();
    let hybrid = [&[4 + parity], &point[1..]].concat();
    let refused = [
        ("compressed", key_info(EC_PUBLIC_KEY, &oid(P256), 0, &compressed)),
        ("hybrid", key_info(EC_PUBLIC_KEY, &oid(P256), 0, &hybrid)),
        ("unused bits", key_info(EC_PUBLIC_KEY, &oid(P256), 1, point)),
        ("no curve", key_info(EC_PUBLIC_KEY, &[], 0, point)),
        ("curve given as null", key_info(EC_PUBLIC_KEY, &[5, 0], 0, point)),
        ("a second parameter", key_info(EC_PUBLIC_KEY, &[oid(P256), vec![5, 0]].concat(), 0, point)),
        ("P-384 by name", key_info(EC_PUBLIC_KEY, &oid(P384), 0, point)),
        ("P-521", key_info(EC_PUBLIC_KEY, &oid(P521), 0, point)),
        ("secp256k1", key_info(EC_PUBLIC_KEY, &oid(SECP256K1), 0, point)),
        ("RSA by name", key_info(RSA, &[5, 0], 0, point)),
        ("a byte more", key_info(EC_PUBLIC_KEY, &oid(P256), 0, &[point, &[0]].concat())),
        ("the point at infinity", key_info(EC_PUBLIC_KEY, &oid(P256), 0, &[0])),
        ("nothing", key_info(EC_PUBLIC_KEY, &oid(P256), 0, &[])),
    ];
    for (what, info) in refused {
        let refused = Csr::parse(&holder.with_key(&info));
        assert!(
            matches!(refused, Err(CsrError::Key | CsrError::UnfitKey(_) | CsrError::Malformed)),
            "{what}: {refused:?}"
        );
    }
    let mut off_curve = point.to_vec();
    off_curve[64] ^= 1;
    let info = key_info(EC_PUBLIC_KEY, &oid(P256), 0, &off_curve);
    assert_eq!(
        refusal(&holder.with_key(&info)).to_string(),
        "CSR has a key that is not accepted: EC point that is not on P-256"
    );
}

#[test]
fn a_key_for_which_everybody_can_sign_is_refused_by_its_name() {
    // Of order four: with R the same point and S zero, half of all messages have a good signature.
    let info = key_info(ED25519_KEY, &[], 0, &[0; 32]);
    let wanted = element(0x30, &[&[2, 1, 0], &element(0x30, &[]), &info, &element(0xa0, &[])]);
    let algorithm = element(0x30, &[&oid(ED25519_KEY)]);
    let request = element(0x30, &[&wanted, &algorithm, &element(3, &[&[0; 65]])]);
    let refused = refusal(&request).to_string();
    assert!(refused.contains("small order"), "{refused}");
}

#[test]
fn who_does_not_hold_the_key_or_signs_with_sha_1_is_refused() {
    let (holder, other) = (Holder::new(), Holder::new());
    assert_eq!(refusal(&other.with_key(&holder.own_info())), CsrError::Signature);
    let sha1 = holder.request(&holder.own_info(), &element(0x30, &[]), &[], ECDSA_SHA1);
    assert_eq!(refusal(&sha1), CsrError::Signature);
}

#[test]
fn a_request_that_is_cut_or_goes_on_is_refused_wherever_it_is_cut() {
    let holder = Holder::new();
    let whole = holder.with_key(&holder.own_info());
    for end in 0..whole.len() {
        assert_eq!(refusal(&whole[..end]), CsrError::Malformed, "{end} bytes");
    }
    assert_eq!(refusal(&[whole.as_slice(), &[0]].concat()), CsrError::Malformed);
}

#[test]
fn no_changed_bit_brings_another_key_or_name() {
    let holder = Holder::new();
    let whole = holder.with_key(&holder.own_info());
    for bit in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // Around what is signed there is a tag that x509-parser does not look at.
        let taken = Csr::parse(&changed).map(|csr| (csr.public_key_info().to_vec(), csr.into_ignored()));
        assert!(taken.is_err() || taken == Ok((holder.own_info(), Vec::new())), "bit {bit}: {taken:?}");
    }
}

#[test]
fn the_size_is_looked_at_before_anything_else() {
    let too_large = CsrError::TooLarge { bytes: CSR_BYTES_MAX + 1 };
    assert_eq!(refusal(&vec![0x30; CSR_BYTES_MAX + 1]), too_large);
    assert_eq!(refusal(&vec![0x30; CSR_BYTES_MAX]), CsrError::Malformed);
}

#[test]
fn what_is_ignored_is_told_also_where_it_is_not_text() {
    let holder = Holder::new();
    let ignored = |names: &[u8]| Csr::parse(&holder.with_names(names)).unwrap().into_ignored();
    let uri = ignored(&element(0x86, &[b"spiffe://shop.example/admin"]));
    assert!(uri.len() == 1 && uri[0].contains("spiffe://shop.example/admin"), "{uri:?}");
    for names in [&element(0x86, &[b"spiffe://shop.example/\xff"])[..], &[0x86, 0x7f, 1], &[]] {
        let told = ignored(names);
        assert_eq!(told.len(), 1, "{names:x?}: {told:?}");
    }
    let (good, bad) = (element(0x86, &[b"spiffe://shop.example/admin"]), element(0x86, &[b"\xff"]));
    assert_eq!(ignored(&[good, bad].concat()).len(), 2);
}

#[test]
fn what_is_ignored_cannot_steer_a_terminal_or_fill_an_answer() {
    let holder = Holder::new();
    let nasty = element(0x86, &["a\n\u{1b}[31m\u{202e}b".as_bytes()]);
    let told = Csr::parse(&holder.with_names(&nasty)).unwrap().into_ignored().concat();
    assert!(!told.contains(['\n', '\u{1b}', '\u{202e}']), "{told:?}");

    let long = element(0x86, &[&[b'x'; 1_000]]);
    let told = Csr::parse(&holder.with_names(&long)).unwrap().into_ignored().concat();
    assert!(told.chars().count() <= IGNORED_CHARS_MAX + 1, "{} characters", told.chars().count());

    let many = element(0x86, &[b"x"]).repeat(100);
    let told = Csr::parse(&holder.with_names(&many)).unwrap().into_ignored();
    assert_eq!(told.len(), IGNORED_MAX + 1);
    assert!(told.last().unwrap().starts_with("84 more"), "{told:?}");
}
