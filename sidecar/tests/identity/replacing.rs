//! What outlives a replacement of the credentials: what was verified, for as long as the trust is the same.

use std::sync::Arc;

use postern_proto::identity::{TrustBundle, TrustBundles, TrustDomain};
use postern_sidecar::identity::credentials::CredentialStore;
use time::{Duration, OffsetDateTime};

use crate::authority::{Authority, TRUST_DOMAIN, Validity, id};

#[test]
fn a_renewal_under_the_same_trust_keeps_what_was_verified_and_any_change_of_trust_drops_it() {
    let (authority, added, store) = (Authority::new(), Authority::new(), CredentialStore::default());
    let now = OffsetDateTime::now_utc();
    let peer = authority.svid(&id("payments"), Validity::of(Duration::hours(1), now));
    let renew = |bundles: TrustBundles| {
        let own = authority.svid(&id("orders"), Validity::of(Duration::hours(1), now));
        store.replace(own, Arc::new(bundles)).unwrap();
        store.current().unwrap().bundles.clone()
    };
    let with = |roots| -> TrustBundles {
        [TrustBundle::new(TrustDomain::new(TRUST_DOMAIN).unwrap(), roots).unwrap()].into_iter().collect()
    };
    let judge = |bundles: &TrustBundles| {
        let judged = bundles.verify_cached(peer.chain(), now).ok()?;
        judged.remember();
        Some(judged.is_remembered())
    };
    let (one, both) = (vec![authority.root.clone()], vec![authority.root.clone(), added.root.clone()]);
    assert_eq!(judge(&renew(with(one.clone()))), Some(false));
    assert_eq!(judge(&renew(with(one.clone()))), Some(true), "the same trust");
    assert_eq!(judge(&renew(with(both.clone()))), Some(false), "a root is added");
    assert_eq!(judge(&renew(with(both))), Some(true));
    assert_eq!(judge(&renew(with(one))), Some(false), "a root is removed, though it did not vouch");
    assert_eq!(judge(&renew(with(vec![added.root]))), None, "the root that vouched is removed");
    assert_eq!(judge(&renew(TrustBundles::default())), None);
}
