use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(number: u16) -> Endpoint {
    SocketAddr::from(([10, 0, 0, 1], number)).into()
}

fn of(count: u16) -> LoadBalancer {
    let mut choice = LoadBalancer::default();
    choice.replace(&(1..=count).map(at).collect::<Vec<_>>());
    choice
}

/// A splitting of seeds into random numbers that need not be good.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed ^ (*seed >> 31)
}

fn eject(choice: &mut LoadBalancer, id: AddressId, now: Instant) -> Duration {
    (0..EJECT_AFTER).find_map(|_| choice.failed(id, None, now, 0)).unwrap()
}

#[test]
fn equal_addresses_share_new_connections_and_a_busy_one_gets_fewer() {
    let (mut choice, now, mut seed) = (of(10), Instant::now(), 7);
    let mut count = BTreeMap::<_, u32>::new();
    for _ in 0..10_000 {
        let picked = choice.pick(now, random(&mut seed), &[]).unwrap();
        choice.left(picked.id);
        *count.entry(picked.at).or_default() += 1;
    }
    assert!(count.len() == 10 && count.values().all(|count| (800..1200).contains(count)), "{count:?}");

    for _ in 0..10_000 {
        choice.pick(now, random(&mut seed), &[]).unwrap();
    }
    let load: Vec<_> = choice.addresses().iter().map(|address| address.in_flight).collect();
    let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
    assert!(most - least < 10, "two choices keep the load even: {load:?}");
}

#[test]
fn of_two_addresses_the_less_busy_is_always_taken() {
    let (mut choice, now, mut seed) = (of(2), Instant::now(), 1);
    let first = choice.pick(now, 0, &[]).unwrap();
    for _ in 0..100 {
        let picked = choice.pick(now, random(&mut seed), &[]).unwrap();
        assert_ne!(picked.id, first.id);
        choice.left(picked.id);
    }
}

#[test]
fn after_one_address_the_next_is_of_the_other_family_if_there_is_one() {
    let (mut choice, now, mut seed) = (LoadBalancer::default(), Instant::now(), 3);
    let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 1)).into();
    choice.replace(&[at(1), at(2), at(3), v6]);
    for _ in 0..20 {
        let mut tried = Vec::new();
        while let Some(picked) = choice.pick(now, random(&mut seed), &tried) {
            tried.push((picked.id, picked.at));
        }
        let last = tried.iter().position(|(_, at)| at.is_ipv6()).unwrap();
        assert!(last < 2 && tried.len() == 4, "{tried:?}");
    }
}

#[test]
fn an_instance_with_two_addresses_is_one_and_remembers_where_it_answered() {
    let (mut choice, now) = (LoadBalancer::default(), Instant::now());
    let both = Endpoint { also: Some(at(2).at), ..at(1) };
    choice.replace(&[both]);
    let picked = choice.pick(now, 0, &[]).unwrap();
    assert_eq!((picked.at, picked.also), (at(1).at, Some(at(2).at)));
    assert!(choice.prefer(picked.id, at(2).at) && !choice.prefer(picked.id, at(2).at), "told once");
    choice.replace(&[both]);
    let picked = choice.pick(now, 0, &[]).unwrap();
    assert_eq!((picked.at, picked.also), (at(2).at, Some(at(1).at)));
    assert!(choice.pick(now, 0, &[(picked.id, picked.at)]).is_none());
}

#[test]
fn a_third_failure_in_a_row_ejects_and_a_success_between_forgives() {
    let (mut choice, now) = (of(1), Instant::now());
    let id = choice.addresses()[0].id;
    for _ in 0..100 {
        assert_eq!(choice.failed(id, None, now, 0), None);
        assert_eq!(choice.failed(id, None, now, 0), None);
        choice.succeeded(id);
    }
    choice.failed(id, None, now, 0);
    choice.failed(id, None, now, 0);
    assert_eq!(choice.failed(id, None, now, 0), Some(EJECTED_FIRST));
}

#[test]
fn a_success_that_was_none_is_taken_back() {
    let (mut choice, now) = (of(1), Instant::now());
    let id = choice.addresses()[0].id;
    let mut ejected = None;
    for _ in 0..EJECT_AFTER {
        assert_eq!(ejected, None);
        let before = choice.succeeded(id);
        ejected = choice.failed(id, Some(before), now, 0);
    }
    assert_eq!(ejected, Some(EJECTED_FIRST));
}

#[test]
fn an_ejected_address_is_tried_only_when_no_other_is_left() {
    let (mut choice, now, mut seed) = (of(3), Instant::now(), 3);
    let dead = choice.addresses()[1].id;
    eject(&mut choice, dead, now);
    for _ in 0..100 {
        let mut tried = Vec::new();
        while let Some(picked) = choice.pick(now, random(&mut seed), &tried) {
            tried.push((picked.id, picked.at));
        }
        assert_eq!((tried.len(), tried[2].0), (3, dead));
    }
}

#[test]
fn when_all_are_ejected_all_are_tried_and_it_is_said() {
    let (mut choice, now, mut seed) = (of(4), Instant::now(), 5);
    assert!(!choice.all_ejected(now) && !LoadBalancer::default().all_ejected(now));
    for id in choice.addresses().iter().map(|address| address.id).collect::<Vec<_>>() {
        eject(&mut choice, id, now);
    }
    assert!(choice.all_ejected(now));
    let mut tried = Vec::new();
    while let Some(picked) = choice.pick(now, random(&mut seed), &tried) {
        tried.push((picked.id, picked.at));
    }
    assert_eq!(tried.len(), 4);
}

#[test]
fn after_its_time_one_connection_tries_it_and_each_failed_trial_doubles_its_time_up_to_the_bound() {
    let (mut choice, mut now) = (of(2), Instant::now());
    let dead = choice.addresses()[0].id;
    let other = choice.addresses()[1].id;
    let mut length = eject(&mut choice, dead, now);
    for doubled in [2, 4, 8, 16, 32, 60, 60] {
        now += length;
        let picked = choice.pick(now, 0, &[(other, at(1).at)]).unwrap();
        assert_eq!(picked.id, dead, "it is tried again");
        for seed in 0..20 {
            assert_eq!(choice.pick(now, seed << 32 | seed, &[]).unwrap().id, other, "by one only");
        }
        length = choice.failed(dead, None, now, 0).unwrap();
        assert_eq!(length, Duration::from_secs(doubled));
    }
    assert_eq!(length, EJECTED_MAX);
    choice.succeeded(dead);
    assert_eq!(eject(&mut choice, dead, now), EJECTED_FIRST, "a success forgives all");
}

#[test]
fn failures_of_what_was_begun_before_do_not_make_an_ejection_longer() {
    let (mut choice, now) = (of(2), Instant::now());
    let dead = choice.addresses()[0].id;
    let length = eject(&mut choice, dead, now);
    for _ in 0..1_000 {
        assert_eq!(choice.failed(dead, None, now, 0), None);
    }
    assert!(!choice.addresses()[0].is_ejected(now + length));
}

#[test]
fn an_address_that_stays_keeps_its_record_and_one_that_came_back_is_new() {
    let (mut choice, now) = (of(2), Instant::now());
    let first = choice.pick(now, 0, &[]).unwrap();
    eject(&mut choice, first.id, now);
    choice.replace(&[at(9), first.at.into()]);
    assert_eq!(choice.addresses().len(), 2);
    assert!(choice.addresses()[0].is_ejected(now) && choice.addresses()[0].in_flight == 1);
    assert!(!first.listing.is_over());
    choice.replace(&[at(9), at(9)]);
    assert!(first.listing.is_over(), "what is kept there learns it");
    choice.replace(&[at(9), first.at.into()]);
    choice.left(first.id);
    assert!(choice.addresses().iter().all(|address| address.in_flight == 0 && !address.is_ejected(now)));
}

proptest! {
    #[test]
    fn ejections_spread_and_stay_within_their_bound(ejections in 1_u32.., random: u64) {
        let length = ejected_for(ejections, random);
        prop_assert!(length <= EJECTED_MAX && length >= EJECTED_FIRST * 3 / 4);
    }

    /// Random histories against a model: what is in flight is what was picked and has not left, everybody who asks
    /// gets each address once, and nobody who is ready is passed over for one who is ejected.
    #[test]
    fn whatever_happens_each_address_is_offered_once_and_the_ejected_last(
        steps in proptest::collection::vec((0_u8..6, any::<u64>()), 1..200),
    ) {
        let (mut choice, mut now) = (of(4), Instant::now());
        let mut open: Vec<Picked> = Vec::new();
        for (step, random) in steps {
            let chosen = (!open.is_empty()).then(|| random as usize % open.len());
            match (step, chosen) {
                (0, _) => open.extend(choice.pick(now, random, &[])),
                (1, Some(chosen)) => choice.left(open.swap_remove(chosen).id),
                (2, Some(chosen)) => drop(choice.succeeded(open[chosen].id)),
                (3, Some(chosen)) => drop(choice.failed(open[chosen].id, None, now, random)),
                (4, _) => now += Duration::from_millis(random % 3_000),
                _ => {
                    let known: Vec<_> = (1..=6).filter(|number| random >> number & 1 == 1).map(at).collect();
                    choice.replace(&known);
                    prop_assert_eq!(choice.addresses().len(), known.len());
                }
            }
            for address in choice.addresses() {
                let in_flight = open.iter().filter(|open| open.id == address.id).count();
                prop_assert_eq!(address.in_flight as usize, in_flight);
                prop_assert!(address.ejected_until.is_none_or(|until| until <= now + EJECTED_MAX));
            }
            let was_ejected = |id| choice.addresses().iter().any(|one| one.id == id && one.is_ejected(now));
            let last: Vec<_> = choice.addresses().iter().map(|one| one.id).filter(|&id| was_ejected(id)).collect();
            let mut tried = Vec::new();
            while let Some(picked) = choice.pick(now, random.rotate_left(tried.len() as u32), &tried) {
                prop_assert!(tried.iter().all(|(id, _)| *id != picked.id));
                let one_before = tried.last().is_some_and(|(before, _)| last.contains(before));
                prop_assert!(last.contains(&picked.id) || !one_before, "a ready one comes before the ejected");
                tried.push((picked.id, picked.at));
                choice.left(picked.id);
            }
            prop_assert_eq!(tried.len(), choice.addresses().len());
        }
    }
}
