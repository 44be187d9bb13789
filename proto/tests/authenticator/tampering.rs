//! No byte of an authenticator can be otherwise, missing or one too many.

use std::ops::Range;

use postern_proto::authenticator::{AUTHENTICATOR_BYTES_MAX, AuthenticatorError, Request};
use proptest::prelude::*;
use rustls::Side;

use crate::case::Case;

/// Where the fields of an authenticator with one certificate stand.
struct Fields {
    context: Range<usize>,
    der: Range<usize>,
    scheme: Range<usize>,
    signature: Range<usize>,
    mac: Range<usize>,
}

impl Fields {
    fn of(case: &Case, authenticator: &[u8]) -> Self {
        let der = case.svid.chain()[0].len();
        let context = 5..37;
        let der = 43..43 + der;
        let scheme = der.end + 2 + 4..der.end + 2 + 6;
        let mac = authenticator.len() - case.hash.output_bytes()..authenticator.len();
        let signature = scheme.end + 2..mac.start - 4;
        Self { context, der, scheme, signature, mac }
    }

    /// What a changed byte at `at` may be refused for.
    fn allows(&self, at: usize, error: &AuthenticatorError) -> bool {
        use AuthenticatorError as E;
        match at {
            at if self.context.contains(&at) => *error == E::Context,
            at if self.der.contains(&at) => matches!(error, E::Certificate(_)),
            at if self.scheme.contains(&at) => matches!(error, E::Scheme { .. } | E::Signature),
            at if self.signature.contains(&at) => *error == E::Signature,
            at if self.mac.contains(&at) => *error == E::Finished,
            // Types and lengths. A length of extensions makes some of what follows one.
            _ => matches!(error, E::Decode(_) | E::Extension { .. }),
        }
    }
}

#[test]
fn every_byte_changed_is_refused_and_says_what_is_wrong() {
    for case in Case::all() {
        let good = case.authenticator();
        let fields = Fields::of(&case, &good);
        for at in 0..good.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= change;
                match case.judge(&bytes) {
                    Ok(_) => panic!("byte {at} may be changed by {change:#04x}"),
                    Err(error) => assert!(fields.allows(at, &error), "byte {at}: {error:?}"),
                }
            }
        }
    }
}

#[test]
fn an_authenticator_cut_anywhere_is_malformed() {
    for case in Case::all() {
        let good = case.authenticator();
        for length in 0..good.len() {
            let error = case.judge(&good[..length]).unwrap_err();
            assert!(matches!(error, AuthenticatorError::Decode(_)), "{length}: {error:?}");
        }
    }
}

#[test]
fn no_byte_may_be_added_or_left_out_anywhere() {
    let case = Case::default();
    let good = case.authenticator();
    for at in 0..=good.len() {
        for extra in [0x00, 0x14, 0xff] {
            let bytes = [&good[..at], &[extra], &good[at..]].concat();
            assert!(case.judge(&bytes).is_err(), "{extra:#04x} before byte {at}");
        }
        if at < good.len() {
            assert!(case.judge(&[&good[..at], &good[at + 1..]].concat()).is_err(), "without byte {at}");
        }
    }
}

#[test]
fn messages_in_another_order_or_number_are_refused_by_name() {
    let case = Case::default();
    let good = case.authenticator();
    let fields = Fields::of(&case, &good);
    let (verify, finished) = (fields.scheme.start - 4, fields.mac.start - 4);
    let (first, second, third) = (&good[..verify], &good[verify..finished], &good[finished..]);
    let refused = |parts: &[&[u8]]| case.judge(&parts.concat()).unwrap_err().to_string();
    let other = |expected, found| format!("{expected} expected, found a handshake message of type {found}");
    assert_eq!(refused(&[second, first, third]), other("Certificate", 15));
    assert_eq!(refused(&[first, third]), other("CertificateVerify", 20));
    assert_eq!(refused(&[first, first, second, third]), other("CertificateVerify", 11));
    assert_eq!(refused(&[first, second, second, third]), other("Finished", 15));
    assert_eq!(refused(&[first, second, third, third]), "36 bytes follow Finished");
    assert_eq!(refused(&[third, first, second]), format!("{} bytes follow Finished", finished));
    assert_eq!(refused(&[case.request().as_bytes(), &good]), other("Certificate", 13));
    assert_eq!(refused(&[]), "Certificate ends before its length says");
}

#[test]
fn the_bound_of_an_authenticators_bytes_is_checked_before_it_is_read() {
    let case = Case::default();
    let judged = |bytes: usize| case.judge(&vec![11; bytes]).unwrap_err();
    assert_eq!(judged(AUTHENTICATOR_BYTES_MAX).code(), "authenticator_malformed");
    let bytes = AUTHENTICATOR_BYTES_MAX + 1;
    assert_eq!(judged(bytes), AuthenticatorError::TooLarge { bytes });
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let case = case();
        prop_assert!(case.judge(&bytes).is_err());
        for asker in [Side::Client, Side::Server] {
            prop_assert!(Request::parse(asker, &bytes).is_err());
        }
    }

    #[test]
    fn a_good_authenticator_with_a_piece_replaced_is_refused_without_a_panic(
        from in any::<prop::sample::Index>(),
        length in 0_usize..64,
        piece in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let case = case();
        let good = case.authenticator();
        let from = from.index(good.len());
        let until = (from + length).min(good.len());
        let bytes = [&good[..from], &piece, &good[until..]].concat();
        prop_assert_eq!(case.judge(&bytes).is_ok(), bytes == good);
    }

    #[test]
    fn messages_with_any_types_and_lengths_never_panic(
        messages in prop::collection::vec(
            (prop::sample::select(vec![11_u8, 13, 15, 17, 20]), 0_usize..80, prop::collection::vec(0_u8..40, 0..80)),
            0..5,
        ),
    ) {
        let case = case();
        let write = |(kind, length, body): &(u8, usize, Vec<u8>)| {
            [&[*kind, 0, 0, *length as u8][..], body].concat()
        };
        let bytes: Vec<u8> = messages.iter().flat_map(write).collect();
        prop_assert!(case.judge(&bytes).is_err());
        let _parsed = Request::parse(Side::Client, &bytes);
    }
}

fn case() -> &'static Case {
    static CASE: std::sync::LazyLock<Case> = std::sync::LazyLock::new(Case::default);
    &CASE
}
