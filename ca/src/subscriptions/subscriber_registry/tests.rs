use super::*;

const LIMITS: SubscriberLimits = SubscriberLimits { sidecars_max: 3, identity_max: 2 };

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.example/{path}")).unwrap()
}

fn hello(instance: &str) -> Hello {
    Hello {
        instance: instance.into(),
        version: "0.1.0".to_owned(),
        services: Arc::from([]),
        own_policy_digest: None,
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn taken(version: u64) -> PolicyAcknowledgement {
    PolicyAcknowledgement { version, ..PolicyAcknowledgement::default() }
}

fn listed(registry: &SubscriberRegistry) -> Vec<(&str, &str, bool)> {
    registry.sidecars().map(|(id, instance, known)| (id.path(), instance, known.is_connected())).collect()
}

#[test]
fn a_newer_stream_of_a_sidecar_takes_over_and_the_end_of_the_older_means_nothing() {
    let mut registry = SubscriberRegistry::new(LIMITS);
    let older = registry.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    registry.acknowledged(&older, taken(3), at(1));
    let newer = registry.enter(&id("orders"), &hello("a"), at(2)).unwrap();
    registry.acknowledged(&older, taken(2), at(3));
    registry.closed(&older);
    registry.ended(&older, at(3));
    let (_, _, sidecar) = registry.sidecars().next().unwrap();
    assert_eq!(sidecar.presence, Presence::Connected { stream: newer.stream, since: at(2) });
    assert_eq!(sidecar.running, Some((3, at(1))));
    assert_eq!((registry.connected, registry.listed), (1, 1));
}

#[test]
fn who_takes_leave_is_forgotten_and_who_is_lost_is_listed_for_an_hour() {
    let mut registry = SubscriberRegistry::new(LIMITS);
    let leaving = registry.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    let dying = registry.enter(&id("orders"), &hello("b"), at(0)).unwrap();
    registry.closed(&leaving);
    registry.ended(&leaving, at(9));
    registry.ended(&dying, at(10));
    assert_eq!(listed(&registry), [("/orders", "b", false)]);
    registry.forget_away(at(10 + 3599));
    assert_eq!(registry.listed, 1);
    registry.forget_away(at(10 + 3600));
    assert_eq!((registry.listed, registry.connected, registry.sidecars.len()), (0, 0, 0));
    assert!(registry.open.is_empty());
}

#[test]
fn one_sidecar_too_many_is_refused_until_another_goes() {
    let mut registry = SubscriberRegistry::new(LIMITS);
    let first = registry.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    registry.enter(&id("orders"), &hello("b"), at(0)).unwrap();
    let full = registry.enter(&id("orders"), &hello("c"), at(0)).unwrap_err();
    assert_eq!(full, Full::OfIdentity { id: id("orders"), limit: 2 });
    // A sidecar's next stream needs no further place.
    let first = registry.enter(&id("orders"), &hello("a"), at(1)).map(|_| first).unwrap();
    registry.enter(&id("payments"), &hello("a"), at(0)).unwrap();
    assert_eq!(registry.enter(&id("reports"), &hello("a"), at(0)), Err(Full::All { limit: 3 }));
    registry.closed(&first);
    assert_eq!(registry.connected, 3, "the newer stream holds the place");
    registry.closed(&StreamKey { stream: first.stream + 2, ..first });
    registry.enter(&id("reports"), &hello("a"), at(0)).unwrap();
}

#[test]
fn streams_that_a_sidecar_does_not_give_up_are_bounded() {
    let mut registry = SubscriberRegistry::new(LIMITS);
    let streams: Vec<_> =
        std::iter::from_fn(|| registry.enter(&id("orders"), &hello("a"), at(0)).ok()).collect();
    assert_eq!(streams.len(), 4);
    registry.ended(&streams[0], at(1));
    registry.enter(&id("orders"), &hello("a"), at(2)).unwrap();
}

#[test]
fn those_that_are_away_are_bounded_and_the_longest_away_gives_way() {
    let mut registry = SubscriberRegistry::new(LIMITS);
    for run in 0..10 {
        let place = registry.enter(&id("orders"), &hello(&format!("run-{run}")), at(run)).unwrap();
        registry.ended(&place, at(run));
    }
    let left: Vec<_> = listed(&registry).into_iter().map(|(_, instance, _)| instance).collect();
    assert_eq!(left, ["run-6", "run-7", "run-8", "run-9"]);
    for run in 0..10 {
        let place = registry.enter(&id(&format!("s{run}")), &hello("a"), at(100 + run)).unwrap();
        registry.ended(&place, at(100 + run));
    }
    assert_eq!(registry.listed, 6);
    assert!(listed(&registry).iter().all(|(path, _, _)| path.starts_with("/s")));
    // What has been away for too long gives way at once.
    registry.enter(&id("new"), &hello("a"), at(10_000)).unwrap();
    assert_eq!(listed(&registry), [("/new", "a", true)]);
}

#[test]
fn a_refused_version_leaves_the_one_before_running_and_words_are_cut() {
    let mut registry = SubscriberRegistry::new(LIMITS);
    let place = registry.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    let unenforceable = vec!["é".repeat(1_000); 7];
    registry.acknowledged(&place, PolicyAcknowledgement { version: 1, unenforceable, ..taken(1) }, at(1));
    let refused = "x".repeat(10_000);
    registry.acknowledged(&place, PolicyAcknowledgement { refused, ..taken(2) }, at(2));
    let (_, _, sidecar) = registry.sidecars().next().unwrap();
    assert_eq!(sidecar.running, Some((1, at(1))));
    let (version, why) = sidecar.refused.clone().unwrap();
    assert_eq!((version, why.len()), (2, WORDS_BYTES_MAX));
    assert_eq!(sidecar.unenforceable.len(), UNENFORCEABLE_MAX + 1);
    assert!(sidecar.unenforceable.iter().all(|text| text.len() <= WORDS_BYTES_MAX));
    registry.acknowledged(&place, taken(3), at(3));
    let (_, _, sidecar) = registry.sidecars().next().unwrap();
    assert_eq!((sidecar.running, &sidecar.refused), (Some((3, at(3))), &None));
}
