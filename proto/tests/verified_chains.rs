//! What bundles remember of verified chains: never another answer than the judge's, never for ever, never too much.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

mod support;

use postern_proto::identity::{
    CachedVerification, TrustBundle, TrustBundles, TrustDomain, VERIFIED_CHAINS_MAX, verify,
};
use rustls_pki_types::CertificateDer;
use support::*;
use time::{Duration, OffsetDateTime};

const ID: &str = "spiffe://shop.example/orders";
const SECOND: Duration = Duration::SECOND;
const NANOSECOND: Duration = Duration::NANOSECOND;

type Chain = Vec<CertificateDer<'static>>;

/// root → issuer → leaf, of which a test changes what it is about.
struct Case {
    root: Spec,
    issuer: Spec,
    leaf: Spec,
    root_key: Key,
    issuer_key: Key,
}

impl Default for Case {
    fn default() -> Self {
        let (root_key, issuer_key) = (Key::default(), Key::default());
        Self {
            root: Spec::ca("root", "root", &root_key),
            issuer: Spec::ca("root", "issuer", &issuer_key),
            leaf: Spec::leaf("issuer", ID, &Key::default()),
            root_key,
            issuer_key,
        }
    }
}

impl Case {
    fn chain(&self) -> Chain {
        vec![self.leaf.sign(&self.issuer_key), self.issuer.sign(&self.root_key)]
    }

    fn bundles(&self) -> TrustBundles {
        bundles(vec![self.root.sign(&self.root_key)])
    }

    /// A chain of another leaf.
    fn other_chain(&self, serial: u32) -> Chain {
        let mut leaf = self.leaf.clone();
        leaf.serial = [&[1][..], &serial.to_be_bytes()].concat();
        vec![leaf.sign(&self.issuer_key), self.issuer.sign(&self.root_key)]
    }
}

fn bundles(roots: Chain) -> TrustBundles {
    let domain = TrustDomain::new("shop.example").unwrap();
    [TrustBundle::new(domain, roots).unwrap()].into_iter().collect()
}

fn spec_ending(spec: &mut Spec, from: OffsetDateTime, to: OffsetDateTime) {
    (spec.not_before, spec.not_after) = (utc(from), utc(to));
}

/// What the bundles say, which must be what the judge says.
#[track_caller]
fn judge(
    bundles: &TrustBundles,
    chain: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Option<CachedVerification> {
    let judged = bundles.verify_cached(chain, now);
    assert_eq!(
        judged.as_ref().map(CachedVerification::svid),
        verify(chain, bundles, now).as_ref(),
        "at {now}"
    );
    judged.ok()
}

#[track_caller]
fn is_remembered(bundles: &TrustBundles, chain: &[CertificateDer<'_>], now: OffsetDateTime) -> bool {
    judge(bundles, chain, now).is_some_and(|judged| judged.is_remembered())
}

#[track_caller]
fn remember(bundles: &TrustBundles, chain: &[CertificateDer<'_>], now: OffsetDateTime) {
    judge(bundles, chain, now).unwrap().remember();
    assert!(is_remembered(bundles, chain, now));
}

#[test]
fn a_chain_is_remembered_when_it_was_asked_to_be_and_not_before() {
    let (case, chain) = (Case::default(), Case::default().chain());
    let bundles = case.bundles();
    assert!(judge(&bundles, &chain, NOW).is_none(), "of another root");
    let chain = case.chain();
    for _ in 0..2 {
        assert!(!judge(&bundles, &chain, NOW).unwrap().is_remembered());
    }
    assert_eq!(bundles.remembered_chains(), 0, "judged, but nobody has proved the key");
    remember(&bundles, &chain, NOW);
    assert_eq!(bundles.remembered_chains(), 1);
}

#[test]
fn a_remembered_chain_holds_to_the_second_of_both_ends() {
    let (case, from, to) = (Case::default(), NOW - Duration::hours(1), NOW + Duration::hours(1));
    let (bundles, chain) = (case.bundles(), case.chain());
    remember(&bundles, &chain, NOW);
    for now in [from, from + NANOSECOND, to, to + SECOND - NANOSECOND] {
        assert!(is_remembered(&bundles, &chain, now), "at {now}");
    }
    for (now, code) in [
        (from - NANOSECOND, "not_yet_valid"),
        (from - SECOND, "not_yet_valid"),
        (to + SECOND, "expired"),
        (to + Duration::days(1), "expired"),
    ] {
        assert!(judge(&bundles, &chain, now).is_none());
        assert_eq!(bundles.verify_cached(&chain, now).unwrap_err().code(), code, "at {now}");
    }
    assert!(is_remembered(&bundles, &chain, NOW), "a refusal at another time forgets nothing");
}

#[test]
fn an_issuer_or_a_root_that_ends_earlier_or_begins_later_narrows_the_window() {
    let (from, to) = (NOW - Duration::minutes(5), NOW + Duration::minutes(5));
    const ISSUER_AND_ROOT: [fn(&mut Case) -> &mut Spec; 2] = [|case| &mut case.issuer, |case| &mut case.root];
    let codes = [("issuer_not_yet_valid", "issuer_expired"), ("no_usable_root", "no_usable_root")];
    for (of, (early, late)) in ISSUER_AND_ROOT.into_iter().zip(codes) {
        let mut case = Case::default();
        spec_ending(of(&mut case), from, to);
        let (bundles, chain) = (case.bundles(), case.chain());
        remember(&bundles, &chain, NOW);
        assert!(is_remembered(&bundles, &chain, from));
        assert!(is_remembered(&bundles, &chain, to + SECOND - NANOSECOND));
        assert!(judge(&bundles, &chain, from - NANOSECOND).is_none());
        assert!(judge(&bundles, &chain, to + SECOND).is_none());
        assert_eq!(bundles.verify_cached(&chain, from - SECOND).unwrap_err().code(), early);
        assert_eq!(bundles.verify_cached(&chain, to + SECOND).unwrap_err().code(), late);
    }
}

#[test]
fn a_second_way_to_a_root_that_opens_or_ends_is_noticed() {
    let case = Case::default();
    let (late, late_key) = (Spec::ca("root", "root", &case.root_key), &case.root_key);
    // The same name and key, valid only later: from then on there are two roots to choose from.
    let mut late = late;
    spec_ending(&mut late, NOW + Duration::minutes(5), NOW + Duration::hours(2));
    let bundles = bundles(vec![case.root.sign(&case.root_key), late.sign(late_key)]);
    let chain = case.chain();
    remember(&bundles, &chain, NOW);
    let opens = NOW + Duration::minutes(5);
    assert!(is_remembered(&bundles, &chain, opens - NANOSECOND));
    assert!(!is_remembered(&bundles, &chain, opens), "another root may vouch from here on");
    remember(&bundles, &chain, opens);
    assert!(!is_remembered(&bundles, &chain, NOW), "one window for each leaf");
}

#[test]
fn a_certificate_that_ends_with_the_calendar_is_remembered_too() {
    let mut case = Case::default();
    case.leaf.not_after = tlv(0x18, b"99991231235959Z");
    case.issuer.not_after = case.leaf.not_after.clone();
    case.root.not_after = case.leaf.not_after.clone();
    let (bundles, chain) = (case.bundles(), case.chain());
    remember(&bundles, &chain, NOW);
    assert!(is_remembered(&bundles, &chain, OffsetDateTime::from_unix_timestamp(253_402_300_799).unwrap()));
}

#[test]
fn a_chain_with_a_certificate_that_cannot_be_read_is_judged_each_time() {
    let case = Case::default();
    let (bundles, mut chain) = (case.bundles(), case.chain());
    chain.push(CertificateDer::from(vec![0x30, 0x00]));
    judge(&bundles, &chain, NOW).unwrap().remember();
    assert!(!is_remembered(&bundles, &chain, NOW), "nobody knows when it counts");
    assert_eq!(bundles.remembered_chains(), 0);
}

#[test]
fn one_other_byte_anywhere_is_another_chain() {
    let case = Case::default();
    let (bundles, chain) = (case.bundles(), case.chain());
    remember(&bundles, &chain, NOW);
    for (which, certificate) in chain.iter().enumerate() {
        for at in (0..certificate.len()).step_by(7) {
            let mut other = chain.clone();
            let mut bytes = certificate.to_vec();
            bytes[at] ^= 1;
            other[which] = CertificateDer::from(bytes);
            assert!(!is_remembered(&bundles, &other, NOW), "byte {at} of certificate {which}");
        }
    }
}

#[test]
fn the_same_bytes_in_other_certificates_are_another_chain() {
    let case = Case::default();
    let (bundles, chain) = (case.bundles(), case.chain());
    let twice = vec![chain[0].clone(), chain[1].clone(), chain[1].clone()];
    remember(&bundles, &twice, NOW);
    let joined = CertificateDer::from([chain[1].as_ref(), chain[1].as_ref()].concat());
    for other in [vec![chain[0].clone(), joined], chain.clone(), chain[..1].to_vec(), vec![chain[1].clone()]]
    {
        assert!(!is_remembered(&bundles, &other, NOW), "{} certificates", other.len());
    }
    let back_to_front: Chain = twice.iter().rev().cloned().collect();
    assert!(!is_remembered(&bundles, &back_to_front, NOW));
}

#[test]
fn other_trust_remembers_nothing() {
    let case = Case::default();
    let (before, chain) = (case.bundles(), case.chain());
    remember(&before, &chain, NOW);
    let judged = judge(&case.bundles(), &chain, NOW).unwrap();
    assert!(!judged.is_remembered(), "the same roots in another value");
    let without = bundles(vec![Spec::ca("root", "root", &Key::default()).sign(&Key::default())]);
    assert!(judge(&without, &chain, NOW).is_none(), "the root is gone");
    assert!(judge(&TrustBundles::default(), &chain, NOW).is_none(), "every root is gone");
    judged.remember();
    assert_eq!((without.remembered_chains(), before.remembered_chains()), (0, 1));
    assert!(is_remembered(&before.clone(), &chain, NOW), "a clone is the same trust");
}

#[test]
fn refused_chains_leave_no_trace() {
    let (case, stranger) = (Case::default(), Case::default());
    let bundles = case.bundles();
    for serial in 0..50 {
        assert!(judge(&bundles, &stranger.other_chain(serial), NOW).is_none());
        assert!(judge(&bundles, &case.other_chain(serial), NOW + Duration::days(1)).is_none());
    }
    assert_eq!(bundles.remembered_chains(), 0);
}

#[test]
fn a_leaf_shown_with_ever_other_issuers_has_one_place() {
    let (case, stranger) = (Case::default(), Case::default());
    let (bundles, chain) = (case.bundles(), case.chain());
    for serial in 0..100 {
        let stray = stranger.other_chain(serial).swap_remove(0);
        remember(&bundles, &[chain.as_slice(), &[stray]].concat(), NOW);
        assert_eq!(bundles.remembered_chains(), 1);
    }
}

#[test]
fn the_memory_has_a_bound_and_keeps_who_comes_often() {
    let case = Case::default();
    let (bundles, often, once) = (case.bundles(), case.chain(), case.other_chain(u32::MAX));
    let put = |chain: &[CertificateDer<'_>]| bundles.verify_cached(chain, NOW).unwrap().remember();
    put(&once);
    put(&often);
    let many = VERIFIED_CHAINS_MAX + VERIFIED_CHAINS_MAX / 4;
    for serial in 0..u32::try_from(many).unwrap() {
        put(&case.other_chain(serial));
        assert!(bundles.remembered_chains() <= VERIFIED_CHAINS_MAX);
        if serial % 500 == 0 {
            assert!(bundles.verify_cached(&often, NOW).unwrap().is_remembered(), "after {serial} others");
        }
    }
    assert!(bundles.remembered_chains() > VERIFIED_CHAINS_MAX / 2, "it is used");
    assert!(!is_remembered(&bundles, &once, NOW), "who came once and long ago is judged again");
}

#[test]
fn many_threads_get_the_judges_answer_each() {
    let case = Case::default();
    let bundles = case.bundles();
    let chains: Vec<Chain> = (0..8).map(|serial| case.other_chain(serial)).collect();
    let times = [NOW, NOW - Duration::hours(2), NOW + Duration::hours(2)];
    let (bundles, chains) = (&bundles, &chains);
    std::thread::scope(|scope| {
        for thread in 0..16_usize {
            scope.spawn(move || {
                for round in 0..100 {
                    let chain = &chains[(thread + round) % chains.len()];
                    let judged = bundles.verify_cached(chain, times[round % 3]);
                    assert_eq!(judged.is_ok(), round % 3 == 0);
                    if let Ok(judged) = judged {
                        assert_eq!(judged.svid().serial(), [1, 0, 0, 0, ((thread + round) % 8) as u8]);
                        judged.remember();
                    }
                }
            });
        }
    });
    assert_eq!(bundles.remembered_chains(), chains.len());
}
