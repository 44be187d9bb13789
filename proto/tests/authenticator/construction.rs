//! Step by step, an authenticator is what the RFCs' text makes.

use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey};
use rustls::Side;

use crate::case::{CONTEXT, Case};
use crate::reference::{self, CERTIFICATE, CERTIFICATE_VERIFY, FINISHED, Key, Reference, certificate, entry};

/// The messages of an authenticator, by their lengths alone.
fn split(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut messages = Vec::new();
    while let [kind, high, middle, low, ..] = bytes {
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        let (message, rest) = bytes.split_at(4 + length);
        messages.push((*kind, message));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    messages
}

fn certificate_of(case: &Case) -> Vec<u8> {
    let entries: Vec<u8> = case.svid.chain().iter().flat_map(|der| entry(der, &[])).collect();
    certificate(&CONTEXT, &entries)
}

#[test]
fn a_request_is_this_message() {
    let extensions = [
        &[0, 13, 0, 14, 0, 12][..], // signature_algorithms
        &[0x04, 0x03, 0x05, 0x03, 0x08, 0x07, 0x08, 0x04, 0x08, 0x05, 0x08, 0x06],
    ]
    .concat();
    let body = [&[32][..], &CONTEXT, &[0, 18], &extensions].concat();
    for (asker, kind) in [(Side::Server, 13), (Side::Client, 17)] {
        let case = Case { asker, ..Case::default() };
        assert_eq!(case.request().as_bytes(), reference::message(kind, &body), "{asker:?}");
    }
}

#[test]
fn the_exporter_is_the_rfcs() {
    for case in Case::all() {
        let reference = Reference::of(&case);
        for (label, context, length) in
            [("EXPORTER-x", &b""[..], 32), ("EXPORTER-y", b"context", 200), ("", b"c", 1)]
        {
            let value = case.exporter().export(label, context, length).unwrap();
            assert_eq!(*value, reference.export(label, context, length));
        }
    }
}

#[test]
fn every_step_is_the_rfcs() {
    for case in Case::all() {
        let (reference, key, request) = (Reference::of(&case), Key::of(&case), case.request());
        let authenticator = case.authenticator();
        let [(CERTIFICATE, first), (CERTIFICATE_VERIFY, second), (FINISHED, third)] =
            split(&authenticator)[..]
        else {
            panic!("not Certificate, CertificateVerify and Finished")
        };
        assert_eq!(first, certificate_of(&case));
        let content = reference.signed_content(request.as_bytes(), first);
        assert_eq!(content.len(), 64 + 22 + 1 + case.hash.output_bytes());
        let (scheme, signature) = (&second[4..6], &second[8..]);
        assert_eq!(scheme, key.scheme().to_be_bytes());
        assert_eq!(second[6..8], reference::u16_bytes(signature.len()));
        let verified = match &key {
            Key::P256(_) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public()).verify(&content, signature)
            }
            Key::P384(_) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key.public()).verify(&content, signature)
            }
            Key::Ed25519(_) => UnparsedPublicKey::new(&ED25519, key.public()).verify(&content, signature),
        };
        verified.unwrap();
        assert_eq!(third, reference.finished(&[request.as_bytes(), first, second]));
    }
}

#[test]
fn an_authenticator_without_chance_in_its_signature_is_the_rfcs_byte_for_byte() {
    for case in Case::all() {
        let key = Key::of(&case);
        if let Key::Ed25519(_) = key {
            let request = case.request();
            let other = Reference::of(&case).authenticator(request.as_bytes(), &certificate_of(&case), &key);
            assert_eq!(case.authenticator(), other);
        }
    }
}

#[test]
fn what_the_rfcs_text_makes_is_believed() {
    for case in Case::all() {
        let (request, key) = (case.request(), Key::of(&case));
        let bytes = Reference::of(&case).authenticator(request.as_bytes(), &certificate_of(&case), &key);
        assert_eq!(case.judge(&bytes).unwrap(), *case.svid.verified());
    }
}

#[test]
fn what_is_made_is_believed_in_both_directions_with_every_key_and_hash() {
    for case in Case::all() {
        let found = case.judge(&case.authenticator()).unwrap();
        assert_eq!(found, *case.svid.verified(), "{:?} {:?}", case.asker, case.hash);
    }
}
