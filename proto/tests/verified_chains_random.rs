//! Random certificates, chains and times: bundles that remember say what the judge says, always.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by a panic")]

mod support;

use postern_proto::identity::{CachedVerification, TrustBundle, TrustBundles, TrustDomain, verify};
use proptest::collection::vec;
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use support::*;
use time::{Duration, OffsetDateTime};

/// From when to when, in seconds from [`NOW`].
type Validity = (i64, i64);

const ROOTS: usize = 3;
const ISSUERS: usize = 4;
const LEAVES: usize = 2;

/// A few certificates that fit together in several ways: roots of one name, issuers of one name and key under them, an
/// issuer that another root signed, leaves.
#[derive(Debug)]
struct World {
    bundles: TrustBundles,
    leaves: Vec<CertificateDer<'static>>,
    issuers: Vec<CertificateDer<'static>>,
}

impl World {
    fn new(validities: &[Validity]) -> Self {
        let (root_key, other_root_key, issuer_key, leaf_key) =
            (Key::default(), Key::default(), Key::default(), Key::default());
        let mut validities = validities.iter();
        let mut with = |mut spec: Spec| {
            let (from, to) = *validities.next().unwrap();
            (spec.not_before, spec.not_after) = (utc(at(from)), utc(at(to)));
            spec
        };
        let roots = (0..ROOTS).map(|which| match which {
            0 | 1 => with(Spec::ca("root", "root", &root_key)).sign(&root_key),
            _ => with(Spec::ca("other", "other", &other_root_key)).sign(&other_root_key),
        });
        let domain = TrustDomain::new("shop.example").unwrap();
        let bundles = [TrustBundle::new(domain, roots.collect()).unwrap()].into_iter().collect();
        let issuers = (0..ISSUERS).map(|which| match which {
            0 | 1 => with(Spec::ca("root", "issuer", &issuer_key)).sign(&root_key),
            2 => with(Spec::ca("other", "issuer", &issuer_key)).sign(&other_root_key),
            // Another key signs in the issuer's name.
            _ => with(Spec::ca("root", "issuer", &leaf_key)).sign(&issuer_key),
        });
        let issuers = issuers.collect();
        let leaves = (0..LEAVES).map(|which| {
            with(Spec::leaf("issuer", &format!("spiffe://shop.example/leaf/{which}"), &leaf_key))
                .sign(&issuer_key)
        });
        Self { leaves: leaves.collect(), bundles, issuers }
    }

    fn chain(&self, leaf: usize, issuers: &[usize]) -> Vec<CertificateDer<'static>> {
        let issuers = issuers.iter().map(|which| self.issuers[*which].clone());
        std::iter::once(self.leaves[leaf].clone()).chain(issuers).collect()
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    NOW + Duration::seconds(seconds)
}

/// Ends that lie close together, so that the times asked about meet them.
fn validity() -> impl Strategy<Value = Validity> {
    (-7_i64..=1, -1_i64..=7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bundles_that_remember_say_what_the_judge_says(
        validities in vec(validity(), ROOTS + ISSUERS + LEAVES),
        questions in vec((0..LEAVES, vec(0..ISSUERS, 0..3), -8_i64..9, any::<bool>(), any::<bool>()), 1..256),
    ) {
        let world = World::new(&validities);
        for (leaf, issuers, second, late, proved) in questions {
            let chain = world.chain(leaf, &issuers);
            let now = at(second) + if late { Duration::milliseconds(999) } else { Duration::ZERO };
            let judged = world.bundles.verify_cached(&chain, now);
            let verdict = verify(&chain, &world.bundles, now);
            prop_assert_eq!(judged.as_ref().map(CachedVerification::svid), verdict.as_ref());
            if let (Ok(judged), true) = (judged, proved) {
                judged.remember();
            }
            prop_assert!(world.bundles.remembered_chains() <= LEAVES);
        }
    }
}
