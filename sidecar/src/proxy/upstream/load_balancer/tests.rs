use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(number: u16) -> Endpoint {
    SocketAddr::from(([10, 0, 0, 1], number)).into()
}

fn of(count: u16) -> LoadBalancer {
    let mut load_balancer = LoadBalancer::default();
    load_balancer.replace(&(1..=count).map(at).collect::<Vec<_>>());
    load_balancer
}

/// A splitting of seeds into random numbers that need not be good.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed ^ (*seed >> 31)
}

fn eject(load_balancer: &mut LoadBalancer, id: AddressId, now: Instant) -> Duration {
    (0..EJECT_AFTER).find_map(|_| load_balancer.failed(id, None, now, 0)).unwrap()
}

#[test]
fn equal_addresses_share_new_connections_and_a_busy_one_gets_fewer() {
    let (mut load_balancer, now, mut seed) = (of(10), Instant::now(), 7);
    let mut count = BTreeMap::<_, u32>::new();
    for _ in 0..10_000 {
        let picked = load_balancer.pick(now, random(&mut seed), &[]).unwrap();
        load_balancer.left(picked.id);
        *count.entry(picked.at).or_default() += 1;
    }
    assert!(count.len() == 10 && count.values().all(|count| (800..1200).contains(count)), "{count:?}");

    for _ in 0..10_000 {
        load_balancer.pick(now, random(&mut seed), &[]).unwrap();
    }
    let load: Vec<_> = load_balancer.addresses().iter().map(|address| address.in_flight).collect();
    let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
    assert!(most - least < 10, "two choices keep the load even: {load:?}");
}

#[test]
fn of_two_addresses_the_less_busy_is_always_taken() {
    let (mut load_balancer, now, mut seed) = (of(2), Instant::now(), 1);
    let first = load_balancer.pick(now, 0, &[]).unwrap();
    for _ in 0..100 {
        let picked = load_balancer.pick(now, random(&mut seed), &[]).unwrap();
        assert_ne!(picked.id, first.id);
        load_balancer.left(picked.id);
    }
}

#[test]
fn after_one_address_the_next_is_of_the_other_family_if_there_is_one() {
    let (mut load_balancer, now, mut seed) = (LoadBalancer::default(), Instant::now(), 3);
    let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 1)).into();
    load_balancer.replace(&[at(1), at(2), at(3), v6]);
    for _ in 0..20 {
        let mut tried = Vec::new();
        while let Some(picked) = load_balancer.pick(now, random(&mut seed), &tried) {
            tried.push((picked.id, picked.at));
        }
        let last = tried.iter().position(|(_, at)| at.is_ipv6()).unwrap();
        assert!(last < 2 && tried.len() == 4, "{tried:?}");
    }
}

#[test]
fn an_instance_with_two_addresses_is_one_and_remembers_where_it_answered() {
    let (mut load_balancer, now) = (LoadBalancer::default(), Instant::now());
    let both = Endpoint { also: Some(at(2).at), ..at(1) };
    load_balancer.replace(&[both]);
    let picked = load_balancer.pick(now, 0, &[]).unwrap();
    assert_eq!((picked.at, picked.also), (at(1).at, Some(at(2).at)));
    assert!(
        load_balancer.prefer(picked.id, at(2).at) && !load_balancer.prefer(picked.id, at(2).at),
        "told once"
    );
    load_balancer.replace(&[both]);
    let picked = load_balancer.pick(now, 0, &[]).unwrap();
    assert_eq!((picked.at, picked.also), (at(2).at, Some(at(1).at)));
    assert!(load_balancer.pick(now, 0, &[(picked.id, picked.at)]).is_none());
}

#[test]
fn a_third_failure_in_a_row_ejects_and_a_success_between_forgives() {
    let (mut load_balancer, now) = (of(1), Instant::now());
    let id = load_balancer.addresses()[0].id;
    for _ in 0..100 {
        assert_eq!(load_balancer.failed(id, None, now, 0), None);
        assert_eq!(load_balancer.failed(id, None, now, 0), None);
        load_balancer.succeeded(id);
    }
    load_balancer.failed(id, None, now, 0);
    load_balancer.failed(id, None, now, 0);
    assert_eq!(load_balancer.failed(id, None, now, 0), Some(EJECTED_FIRST));
}

#[test]
fn a_success_that_was_none_is_taken_back() {
    let (mut load_balancer, now) = (of(1), Instant::now());
    let id = load_balancer.addresses()[0].id;
    let mut ejected = None;
    for _ in 0..EJECT_AFTER {
        assert_eq!(ejected, None);
        let before = load_balancer.succeeded(id);
        ejected = load_balancer.failed(id, Some(before), now, 0);
    }
    assert_eq!(ejected, Some(EJECTED_FIRST));
}

#[test]
fn an_ejected_address_is_tried_only_when_no_other_is_left() {
    let (mut load_balancer, now, mut seed) = (of(3), Instant::now(), 3);
    let dead = load_balancer.addresses()[1].id;
    eject(&mut load_balancer, dead, now);
    for _ in 0..100 {
        let mut tried = Vec::new();
        while let Some(picked) = load_balancer.pick(now, random(&mut seed), &tried) {
            tried.push((picked.id, picked.at));
        }
        assert_eq!((tried.len(), tried[2].0), (3, dead));
    }
}

#[test]
fn all_addresses_are_tried_and_reported_when_all_are_ejected() {
    let (mut load_balancer, now, mut seed) = (of(4), Instant::now(), 5);
    assert!(!load_balancer.all_ejected(now) && !LoadBalancer::default().all_ejected(now));
    for id in load_balancer.addresses().iter().map(|address| address.id).collect::<Vec<_>>() {
        eject(&mut load_balancer, id, now);
    }
    assert!(load_balancer.all_ejected(now));
    let mut tried = Vec::new();
    while let Some(picked) = load_balancer.pick(now, random(&mut seed), &tried) {
        tried.push((picked.id, picked.at));
    }
    assert_eq!(tried.len(), 4);
}

#[test]
fn after_its_time_one_connection_tries_it_and_each_failed_trial_doubles_its_time_up_to_the_bound() {
    let (mut load_balancer, mut now) = (of(2), Instant::now());
    let dead = load_balancer.addresses()[0].id;
    let other = load_balancer.addresses()[1].id;
    let mut length = eject(&mut load_balancer, dead, now);
    for doubled in [2, 4, 8, 16, 32, 60, 60] {
        now += length;
        let picked = load_balancer.pick(now, 0, &[(other, at(1).at)]).unwrap();
        assert_eq!(picked.id, dead, "it is tried again");
        for seed in 0..20 {
            assert_eq!(load_balancer.pick(now, seed << 32 | seed, &[]).unwrap().id, other, "by one only");
        }
        length = load_balancer.failed(dead, None, now, 0).unwrap();
        assert_eq!(length, Duration::from_secs(doubled));
    }
    assert_eq!(length, EJECTED_MAX);
    load_balancer.succeeded(dead);
    assert_eq!(eject(&mut load_balancer, dead, now), EJECTED_FIRST, "a success forgives all");
}

#[test]
fn failures_of_earlier_attempts_do_not_extend_an_ejection() {
    let (mut load_balancer, now) = (of(2), Instant::now());
    let dead = load_balancer.addresses()[0].id;
    let length = eject(&mut load_balancer, dead, now);
    for _ in 0..1_000 {
        assert_eq!(load_balancer.failed(dead, None, now, 0), None);
    }
    assert!(!load_balancer.addresses()[0].is_ejected(now + length));
}

#[test]
fn an_address_that_stays_keeps_its_record_and_one_that_came_back_is_new() {
    let (mut load_balancer, now) = (of(2), Instant::now());
    let first = load_balancer.pick(now, 0, &[]).unwrap();
    eject(&mut load_balancer, first.id, now);
    load_balancer.replace(&[at(9), first.at.into()]);
    assert_eq!(load_balancer.addresses().len(), 2);
    assert!(load_balancer.addresses()[0].is_ejected(now) && load_balancer.addresses()[0].in_flight == 1);
    assert!(!first.handle.is_over());
    load_balancer.replace(&[at(9), at(9)]);
    assert!(first.handle.is_over(), "what is kept there learns it");
    load_balancer.replace(&[at(9), first.at.into()]);
    load_balancer.left(first.id);
    assert!(
        load_balancer.addresses().iter().all(|address| address.in_flight == 0 && !address.is_ejected(now))
    );
}

proptest! {
    #[test]
    fn ejections_spread_and_stay_within_their_bound(ejections in 1_u32.., random: u64) {
        let length = ejected_for(ejections, random);
        prop_assert!(length <= EJECTED_MAX && length >= EJECTED_FIRST * 3 / 4);
    }

    /// Random histories against a model: the count in flight is what was selected and has not ended, each attempt
    /// gets each address once, and no ready address is skipped for an ejected one.
    #[test]
    fn whatever_happens_each_address_is_offered_once_and_the_ejected_last(
        steps in proptest::collection::vec((0_u8..6, any::<u64>()), 1..200),
    ) {
        let (mut load_balancer, mut now) = (of(4), Instant::now());
        let mut open: Vec<Selection> = Vec::new();
        for (step, random) in steps {
            let chosen = (!open.is_empty()).then(|| random as usize % open.len());
            match (step, chosen) {
                (0, _) => open.extend(load_balancer.pick(now, random, &[])),
                (1, Some(chosen)) => load_balancer.left(open.swap_remove(chosen).id),
                (2, Some(chosen)) => drop(load_balancer.succeeded(open[chosen].id)),
                (3, Some(chosen)) => drop(load_balancer.failed(open[chosen].id, None, now, random)),
                (4, _) => now += Duration::from_millis(random % 3_000),
                _ => {
                    let known: Vec<_> = (1..=6).filter(|number| random >> number & 1 == 1).map(at).collect();
                    load_balancer.replace(&known);
                    prop_assert_eq!(load_balancer.addresses().len(), known.len());
                }
            }
            for address in load_balancer.addresses() {
                let in_flight = open.iter().filter(|open| open.id == address.id).count();
                prop_assert_eq!(address.in_flight as usize, in_flight);
                prop_assert!(address.ejected_until.is_none_or(|until| until <= now + EJECTED_MAX));
            }
            let was_ejected = |id| load_balancer.addresses().iter().any(|one| one.id == id && one.is_ejected(now));
            let last: Vec<_> = load_balancer.addresses().iter().map(|one| one.id).filter(|&id| was_ejected(id)).collect();
            let mut tried = Vec::new();
            while let Some(picked) = load_balancer.pick(now, random.rotate_left(tried.len() as u32), &tried) {
                prop_assert!(tried.iter().all(|(id, _)| *id != picked.id));
                let one_before = tried.last().is_some_and(|(before, _)| last.contains(before));
                prop_assert!(last.contains(&picked.id) || !one_before, "a ready one comes before the ejected");
                tried.push((picked.id, picked.at));
                load_balancer.left(picked.id);
            }
            prop_assert_eq!(tried.len(), load_balancer.addresses().len());
        }
    }
}
