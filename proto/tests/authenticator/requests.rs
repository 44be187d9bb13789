//! What a request may say, and what its receiver makes of it.

use std::iter;

use postern_proto::authenticator::{
    AUTHENTICATOR_BYTES_MAX, AuthenticateError, DecodeError, REQUEST_BYTES_MAX, Request, RequestError,
    authenticate,
};
use postern_proto::identity::{CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX};
use postern_proto::mtls::TlsIdentity;
use rustls::Side;
use rustls_pki_types::CertificateDer;

use crate::case::{ASKERS, CONTEXT, Case};
use crate::reference::{ED25519, Key, P256, P384, message, u16_bytes};

const SIGNATURE_ALGORITHMS: u16 = 13;

fn extension(code: u16, data: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &u16_bytes(data.len()), data].concat()
}

/// A signature_algorithms extension.
fn schemes(list: &[u16]) -> Vec<u8> {
    let list: Vec<u8> = list.iter().flat_map(|scheme| scheme.to_be_bytes()).collect();
    extension(SIGNATURE_ALGORITHMS, &[&u16_bytes(list.len())[..], &list].concat())
}

fn request(asker: Side, context: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = extensions.concat();
    let body = [&[context.len() as u8][..], context, &u16_bytes(extensions.len()), &extensions].concat();
    message(if asker == Side::Server { 13 } else { 17 }, &body)
}

fn parse(extensions: &[Vec<u8>]) -> Result<Request, RequestError> {
    Request::parse(Side::Server, &request(Side::Server, &CONTEXT, extensions))
}

#[test]
fn a_request_is_read_as_it_was_written() {
    for asker in ASKERS {
        let asked = Request::new(asker, CONTEXT);
        let read = Request::parse(asker, asked.as_bytes()).unwrap();
        assert_eq!((read.asker(), read.context(), read.as_bytes()), (asker, &CONTEXT, asked.as_bytes()));
        assert_eq!(read, asked);
        assert_ne!(read.answerer(), asker);
    }
}

#[test]
fn a_request_of_the_wrong_side_is_refused() {
    let refused = |asker, asked: Side| Request::parse(asker, Request::new(asked, CONTEXT).as_bytes());
    let (expected, found) = ("CertificateRequest", 17);
    let error = DecodeError::Message { expected, found };
    assert_eq!(refused(Side::Server, Side::Client), Err(error.into()));
    let (expected, found) = ("ClientCertificateRequest", 13);
    let error = DecodeError::Message { expected, found };
    assert_eq!(refused(Side::Client, Side::Server), Err(error.into()));
}

#[test]
fn a_request_cut_anywhere_or_with_more_behind_it_is_malformed() {
    for asker in ASKERS {
        let good = Request::new(asker, CONTEXT).as_bytes().to_vec();
        for length in 0..good.len() {
            let refused = Request::parse(asker, &good[..length]).unwrap_err();
            assert!(matches!(refused, RequestError::Decode(_)), "{length}: {refused:?}");
        }
        let refused = Request::parse(asker, &[&good[..], &[0]].concat()).unwrap_err();
        assert!(matches!(refused, RequestError::Decode(DecodeError::Trailing { bytes: 1, .. })));
    }
}

#[test]
fn a_context_has_32_bytes() {
    for length in (0..32).chain(33..256) {
        let context = vec![1; length];
        let bytes = request(Side::Client, &context, &[schemes(&[P256])]);
        assert_eq!(Request::parse(Side::Client, &bytes), Err(RequestError::Context { bytes: length }));
    }
}

#[test]
fn signature_algorithms_must_be_there_and_whole() {
    assert_eq!(parse(&[]), Err(RequestError::NoSignatureAlgorithms));
    assert_eq!(parse(&[extension(50, &[0, 2, 4, 3])]), Err(RequestError::NoSignatureAlgorithms));
    let field = "signature_algorithms";
    for (data, error) in [
        (&[][..], DecodeError::Truncated { field }),
        (&[0], DecodeError::Truncated { field }),
        (&[0, 2, 4], DecodeError::Truncated { field }),
        (&[0, 0], DecodeError::Length { field, bytes: 0 }),
        (&[0, 1, 4], DecodeError::Length { field, bytes: 1 }),
        (&[0, 3, 4, 3, 5], DecodeError::Length { field, bytes: 3 }),
        (&[0, 2, 4, 3, 5], DecodeError::Trailing { field, bytes: 1 }),
    ] {
        assert_eq!(parse(&[extension(SIGNATURE_ALGORITHMS, data)]), Err(error.into()), "{data:?}");
    }
}

#[test]
fn an_extension_twice_or_out_of_place_is_refused_by_name() {
    let twice = parse(&[schemes(&[P256]), schemes(&[P384])]).unwrap_err();
    assert_eq!(twice.to_string(), "authenticator request has the extension signature_algorithms(13) twice");
    let twice = parse(&[extension(0x1a1a, &[]), schemes(&[P256]), extension(0x1a1a, &[])]).unwrap_err();
    assert_eq!(twice.to_string(), "authenticator request has the extension unknown(6682) twice");
    for code in [1, 10, 14, 15, 16, 19, 20, 21, 41, 42, 43, 44, 45, 49, 51, 0] {
        let refused = parse(&[schemes(&[P256]), extension(code, &[0])]).unwrap_err();
        assert!(matches!(refused, RequestError::Misplaced { extension } if extension.0 == code));
        assert!(refused.to_string().contains(&format!("({code}), which does not belong there")), "{refused}");
        assert!(!refused.to_string().contains("unknown"), "{refused}");
    }
}

/// RFC 9261 §5.2.1: they must be ignored; and they are signed for, like all of the request.
#[test]
fn extensions_that_guide_a_choice_or_are_unknown_are_ignored() {
    let case = Case { asker: Side::Client, ..Case::default() };
    let others = [0_u16, 5, 18, 27, 34, 47, 48, 50, 0x0a0a, 0xfe0d, 0xffff];
    let extensions: Vec<_> =
        iter::once(schemes(&[ED25519, P256])).chain(others.map(|code| extension(code, &[1, 2, 3]))).collect();
    let bytes = request(Side::Client, &CONTEXT, &extensions);
    let parse = || Request::parse(Side::Client, &bytes).unwrap();
    assert_eq!(parse().as_bytes(), bytes);
    let answer = authenticate(&case.exporter(), &parse(), &case.identity()).unwrap();
    assert!(case.judge_answer_to(parse(), &answer).is_ok());
    assert!(case.judge(&answer).is_err(), "the request is part of what is proved");
}

#[test]
fn who_cannot_sign_as_asked_makes_no_authenticator() {
    for case in Case::all() {
        let key = Key::of(&case).scheme();
        let answer = |list: &[u16]| {
            let bytes = request(case.asker, &CONTEXT, &[schemes(list)]);
            let request = Request::parse(case.asker, &bytes).unwrap();
            authenticate(&case.exporter(), &request, &case.identity())
        };
        assert!(answer(&[0xffff, 0x0401, key]).is_ok());
        let others: Vec<u16> = [P256, P384, ED25519].into_iter().filter(|scheme| *scheme != key).collect();
        for list in [&others[..], &[0x0401, 0x0201, 0x0203], &[0xffff]] {
            assert_eq!(answer(list), Err(AuthenticateError::NoCommonScheme), "{list:x?}");
        }
    }
}

#[test]
fn a_chain_that_no_judge_would_read_makes_no_authenticator() {
    let case = Case::default();
    let answer = |roots: &[CertificateDer<'static>]| {
        let identity = TlsIdentity::with_roots(&case.svid, roots).unwrap();
        authenticate(&case.exporter(), &case.request(), &identity)
    };
    let (leaf, root) = (case.svid.chain()[0].len(), case.authority.root.clone());
    let longest = vec![root.clone(); CHAIN_CERTIFICATES_MAX - 1];
    assert!(case.judge(&answer(&longest).unwrap()).is_ok());
    let bytes = leaf + CHAIN_CERTIFICATES_MAX * root.len();
    let refused = answer(&vec![root; CHAIN_CERTIFICATES_MAX]);
    assert_eq!(refused, Err(AuthenticateError::Chain { certificates: 17, bytes }));
    let filled = |bytes: usize| [CertificateDer::from(vec![0x30; bytes - leaf])];
    assert!(answer(&filled(CHAIN_BYTES_MAX)).unwrap().len() < AUTHENTICATOR_BYTES_MAX);
    let bytes = CHAIN_BYTES_MAX + 1;
    assert_eq!(answer(&filled(bytes)), Err(AuthenticateError::Chain { certificates: 2, bytes }));
}

#[test]
fn the_bound_of_a_requests_bytes_is_checked_before_it_is_read() {
    let padded = |bytes: usize| {
        let bare = request(Side::Server, &CONTEXT, &[schemes(&[P256]), extension(0x1a1a, &[])]).len();
        let padding = extension(0x1a1a, &vec![0; bytes - bare]);
        request(Side::Server, &CONTEXT, &[schemes(&[P256]), padding])
    };
    assert_eq!(padded(REQUEST_BYTES_MAX).len(), REQUEST_BYTES_MAX);
    assert!(Request::parse(Side::Server, &padded(REQUEST_BYTES_MAX)).is_ok());
    let bytes = REQUEST_BYTES_MAX + 1;
    assert_eq!(Request::parse(Side::Server, &padded(bytes)), Err(RequestError::TooLarge { bytes }));
}
