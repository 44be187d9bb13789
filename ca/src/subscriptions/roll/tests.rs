use super::*;

const LIMITS: RollLimits = RollLimits { sidecars_max: 3, identity_max: 2 };

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

fn listed(roll: &Roll) -> Vec<(&str, &str, bool)> {
    roll.sidecars().map(|(id, instance, known)| (id.path(), instance, known.is_connected())).collect()
}

#[test]
fn a_newer_stream_of_a_sidecar_takes_over_and_the_end_of_the_older_means_nothing() {
    let mut roll = Roll::new(LIMITS);
    let older = roll.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    roll.acknowledged(&older, taken(3), at(1));
    let newer = roll.enter(&id("orders"), &hello("a"), at(2)).unwrap();
    roll.acknowledged(&older, taken(2), at(3));
    roll.left(&older);
    roll.ended(&older, at(3));
    let (_, _, sidecar) = roll.sidecars().next().unwrap();
    assert_eq!(sidecar.presence, Presence::Connected { stream: newer.stream, since: at(2) });
    assert_eq!(sidecar.running, Some((3, at(1))));
    assert_eq!((roll.connected, roll.listed), (1, 1));
}

#[test]
fn who_takes_leave_is_forgotten_and_who_is_lost_is_listed_for_an_hour() {
    let mut roll = Roll::new(LIMITS);
    let leaving = roll.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    let dying = roll.enter(&id("orders"), &hello("b"), at(0)).unwrap();
    roll.left(&leaving);
    roll.ended(&leaving, at(9));
    roll.ended(&dying, at(10));
    assert_eq!(listed(&roll), [("/orders", "b", false)]);
    roll.forget_away(at(10 + 3599));
    assert_eq!(roll.listed, 1);
    roll.forget_away(at(10 + 3600));
    assert_eq!((roll.listed, roll.connected, roll.sidecars.len()), (0, 0, 0));
    assert!(roll.open.is_empty());
}

#[test]
fn one_sidecar_too_many_is_refused_until_another_goes() {
    let mut roll = Roll::new(LIMITS);
    let first = roll.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    roll.enter(&id("orders"), &hello("b"), at(0)).unwrap();
    let full = roll.enter(&id("orders"), &hello("c"), at(0)).unwrap_err();
    assert_eq!(full, Full::OfIdentity { id: id("orders"), limit: 2 });
    // A sidecar's next stream needs no further place.
    let first = roll.enter(&id("orders"), &hello("a"), at(1)).map(|_| first).unwrap();
    roll.enter(&id("payments"), &hello("a"), at(0)).unwrap();
    assert_eq!(roll.enter(&id("reports"), &hello("a"), at(0)), Err(Full::All { limit: 3 }));
    roll.left(&first);
    assert_eq!(roll.connected, 3, "the newer stream holds the place");
    roll.left(&Place { stream: first.stream + 2, ..first });
    roll.enter(&id("reports"), &hello("a"), at(0)).unwrap();
}

#[test]
fn streams_that_a_sidecar_does_not_give_up_are_bounded() {
    let mut roll = Roll::new(LIMITS);
    let streams: Vec<_> = std::iter::from_fn(|| roll.enter(&id("orders"), &hello("a"), at(0)).ok()).collect();
    assert_eq!(streams.len(), 4);
    roll.ended(&streams[0], at(1));
    roll.enter(&id("orders"), &hello("a"), at(2)).unwrap();
}

#[test]
fn those_that_are_away_are_bounded_and_the_longest_away_gives_way() {
    let mut roll = Roll::new(LIMITS);
    for run in 0..10 {
        let place = roll.enter(&id("orders"), &hello(&format!("run-{run}")), at(run)).unwrap();
        roll.ended(&place, at(run));
    }
    let left: Vec<_> = listed(&roll).into_iter().map(|(_, instance, _)| instance).collect();
    assert_eq!(left, ["run-6", "run-7", "run-8", "run-9"]);
    for run in 0..10 {
        let place = roll.enter(&id(&format!("s{run}")), &hello("a"), at(100 + run)).unwrap();
        roll.ended(&place, at(100 + run));
    }
    assert_eq!(roll.listed, 6);
    assert!(listed(&roll).iter().all(|(path, _, _)| path.starts_with("/s")));
    // What has been away for too long gives way at once.
    roll.enter(&id("new"), &hello("a"), at(10_000)).unwrap();
    assert_eq!(listed(&roll), [("/new", "a", true)]);
}

#[test]
fn a_refused_version_leaves_the_one_before_running_and_words_are_cut() {
    let mut roll = Roll::new(LIMITS);
    let place = roll.enter(&id("orders"), &hello("a"), at(0)).unwrap();
    let unenforceable = vec!["é".repeat(1_000); 7];
    roll.acknowledged(&place, PolicyAcknowledgement { version: 1, unenforceable, ..taken(1) }, at(1));
    let refused = "x".repeat(10_000);
    roll.acknowledged(&place, PolicyAcknowledgement { refused, ..taken(2) }, at(2));
    let (_, _, sidecar) = roll.sidecars().next().unwrap();
    assert_eq!(sidecar.running, Some((1, at(1))));
    let (version, why) = sidecar.refused.clone().unwrap();
    assert_eq!((version, why.len()), (2, WORDS_BYTES_MAX));
    assert_eq!(sidecar.unenforceable.len(), UNENFORCEABLE_MAX + 1);
    assert!(sidecar.unenforceable.iter().all(|text| text.len() <= WORDS_BYTES_MAX));
    roll.acknowledged(&place, taken(3), at(3));
    let (_, _, sidecar) = roll.sidecars().next().unwrap();
    assert_eq!((sidecar.running, &sidecar.refused), (Some((3, at(3))), &None));
}
