//! Each kind of change that `diff` tells, and what it does not take for one.

use std::fmt::Write as _;
use std::time::Instant;

use postern_proto::policy::{
    Change, DIFF_CHANGES_MAX, Direction, LIST_ENTRIES_MAX, LISTED_MAX, Policy, RULES_MAX, diff,
};
use time::macros::datetime;

use crate::ask::{NOW, policy};

const BASE: &str = r#"[service.payments]
ports = { api = "http", bulk = "tcp", web = "http" }
[[service.payments.allow]]
from = ["orders"]
calls = ["POST /charge"]
port = "api"
expires = 2027-06-30
[service.orders]
[service.reports]
"#;

/// What is gained and what is lost when a part of the base file is replaced, as sentences.
fn changed(part: &str, by: &str) -> [Vec<String>; 2] {
    assert!(BASE.contains(part), "{part}");
    compared(BASE, &BASE.replace(part, by))
}

fn compared(old: &str, new: &str) -> [Vec<String>; 2] {
    let found = diff(&policy(old), &policy(new), NOW);
    [(found.gained, Direction::Gained), (found.lost, Direction::Lost)]
        .map(|(changes, direction)| changes.kept.iter().map(|change| change.sentence(direction)).collect())
}

#[track_caller]
fn only_gains(part: &str, by: &str, said: &str) {
    assert_eq!(changed(part, by), [vec![said.to_owned()], vec![]]);
}

#[test]
fn the_same_file_changes_nothing() {
    assert_eq!(compared(BASE, BASE), [vec![], vec![]] as [Vec<String>; 2]);
}

#[test]
fn a_new_rule_is_a_gain_and_backwards_a_loss() {
    let rule = "[[service.payments.allow]]\nfrom = [\"reports\"]\nport = \"bulk\"\n[service.orders]\n";
    only_gains("[service.orders]\n", rule, "reports may send anything to payments port bulk (policy.toml:9)");
    let with_rule = BASE.replace("[service.orders]\n", rule);
    let lost = "reports may no longer send anything to payments port bulk (policy.toml:9)";
    assert_eq!(compared(&with_rule, BASE), [vec![], vec![lost.to_owned()]]);
}

#[test]
fn another_caller_and_another_call_are_gains() {
    only_gains(
        "[\"orders\"]",
        "[\"orders\", \"/ns/*\"]",
        "/ns/* may POST /charge on payments port api (policy.toml:4, until 2027-06-30)",
    );
    only_gains(
        "\"POST /charge\"",
        "\"POST /charge\", \"GET /charges/**\"",
        "orders may GET /charges/** on payments port api (policy.toml:4, until 2027-06-30)",
    );
    only_gains(
        "calls = [\"POST /charge\"]\n",
        "",
        "orders may send anything to payments port api (policy.toml:4, until 2027-06-30)",
    );
}

#[test]
fn a_later_and_a_removed_end_are_gains_from_the_old_end_on() {
    only_gains(
        "2027-06-30",
        "2027-12-31",
        "orders may POST /charge on payments port api (policy.toml:4, until 2027-12-31, both files allow it until 2027-06-30)",
    );
    only_gains(
        "expires = 2027-06-30\n",
        "",
        "orders may POST /charge on payments port api (policy.toml:4, both files allow it until 2027-06-30)",
    );
}

#[test]
fn an_end_before_the_time_asked_is_no_access() {
    let later = BASE.replace("2027-06-30", "2027-12-31");
    let at = |at| diff(&policy(BASE), &policy(&later), at).gained.is_empty();
    assert!(!at(datetime!(2027-12-31 23:59:59 UTC)));
    assert!(at(datetime!(2028-01-01 00:00:00 UTC)));
}

#[test]
fn a_removed_port_is_a_gain_on_the_others() {
    only_gains(
        "port = \"api\"\n",
        "",
        "orders may POST /charge on payments port web (policy.toml:4, until 2027-06-30)",
    );
}

#[test]
fn observing_is_a_gain_and_enforcing_again_a_loss() {
    let observing = "[service.payments]\nmode = \"observe\"\n";
    only_gains(
        "[service.payments]\n",
        observing,
        "everyone may call anything on payments port api, bulk and web, because it only observes (policy.toml:2)",
    );
    let observing = BASE.replace("[service.payments]\n", observing);
    let [gained, lost] = compared(&observing, BASE);
    assert!(gained.is_empty() && lost[0].starts_with("only whom a rule allows"), "{lost:?}");
}

#[test]
fn what_everyone_may_already_is_no_gain() {
    let observing = BASE.replace("[service.payments]\n", "[service.payments]\nmode = \"observe\"\n");
    let more = observing.replace("[\"orders\"]", "[\"orders\", \"reports\"]");
    assert_eq!(compared(&observing, &more), [vec![], vec![]] as [Vec<String>; 2]);
}

#[test]
fn a_changed_identity_is_told_as_such_and_is_a_gain() {
    let [gained, lost] = changed("[service.reports]", "[service.reports]\nidentity = \"/ns/r\"");
    assert!(lost.is_empty() && gained.len() == 1, "{gained:?} {lost:?}");
    assert!(gained[0].starts_with("the name reports means spiffe://shop.example/ns/r instead"), "{gained:?}");
    let [gained, lost] = changed("[service.orders]", "[service.orders]\nidentity = \"/ns/o\"");
    assert!(gained[0].contains("the name orders means") && gained[1].starts_with("orders may POST"));
    assert!(lost[0].starts_with("orders may no longer POST"), "{lost:?}");
}

#[test]
fn a_changed_trust_domain_is_told_once_and_is_a_gain() {
    let read = |domain: &str| {
        Policy::parse("p", &format!("trust_domain = {domain:?}\n[service.a]\n[service.b]\n")).unwrap()
    };
    let found = diff(&read("shop.example"), &read("shop.test"), NOW);
    assert!(matches!(found.gained.kept.as_slice(), [Change::TrustDomain { .. }]), "{found:?}");
}

#[test]
fn the_same_access_in_other_words_changes_nothing() {
    for (old, new) in [
        ("from = [\"/**\"]", "from = [\"/*\", \"/*/**\", \"/a\"]"),
        ("from = [\"orders\", \"reports\"]", "from = [\"/reports\", \"spiffe://shop.example/orders\"]"),
        (
            "from = [\"orders\"]\ncalls = [\"* /**\"]",
            "from = [\"orders\"]\ncalls = [\"* /\", \"* /*\", \"* /*/**\", \"GET /a\"]",
        ),
        ("from = [\"orders\"]", "from = [\"orders\"]\nowner = \"x\"\nreason = \"y\""),
        (
            "from = [\"orders\"]",
            "from = [\"orders\"]\n[[service.payments.allow]]\nfrom = [\"orders\", \"/a\"]\nexpires = 2026-01-01",
        ),
    ] {
        let file = |rule: &str| {
            format!(
                "[service.payments]\n[service.orders]\n[service.reports]\n[[service.payments.allow]]\n{rule}\n"
            )
        };
        assert_eq!(compared(&file(old), &file(new)), [vec![], vec![]] as [Vec<String>; 2], "{old} {new}");
        assert_eq!(compared(&file(new), &file(old)), [vec![], vec![]] as [Vec<String>; 2], "{new} {old}");
    }
}

#[test]
fn two_rules_together_cover_what_neither_does() {
    let rule = |rest: &str| format!("[[service.payments.allow]]\nfrom = [\"orders\"]\n{rest}\n");
    let head = "[service.orders]\n[service.payments]\nports = { api = \"http\", web = \"http\" }\n";
    let one = format!("{head}{}", rule("calls = [\"GET /**\"]"));
    let two = format!(
        "{head}{}{}",
        rule("calls = [\"GET /\", \"GET /*\", \"GET /*/**\"]\nport = \"api\""),
        rule("calls = [\"GET /**\"]\nport = \"web\"")
    );
    assert_eq!(compared(&two, &one), [vec![], vec![]] as [Vec<String>; 2]);
}

#[test]
fn a_service_without_ports_is_open_on_inbounds_that_a_list_would_refuse() {
    let file = |ports: &str| {
        format!(
            "[service.orders]\n[service.payments]\n{ports}\n[[service.payments.allow]]\nfrom = [\"orders\"]\n"
        )
    };
    let [gained, lost] = compared(&file("ports = { api = \"http\" }"), &file(""));
    assert_eq!(gained, ["orders may send anything to payments, any port (policy.toml:5)"]);
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_partial_gain_names_only_what_is_new() {
    let [gained, _] = changed("\"POST /charge\"", "\"* /charge\", \"POST /charge\"");
    assert_eq!(gained, ["orders may * /charge on payments port api (policy.toml:4, until 2027-06-30)"]);
}

#[test]
fn sentences_and_changes_are_bounded() {
    let many: Vec<_> = (0..LIST_ENTRIES_MAX).map(|n| format!("/x{n}")).collect();
    let [gained, _] = changed("[\"orders\"]", &format!("{many:?}"));
    assert!(gained[0].contains(&format!("and {} more may", LIST_ENTRIES_MAX - LISTED_MAX)), "{gained:?}");

    let mut rules = String::from("[service.s]\n");
    for n in 0..DIFF_CHANGES_MAX + 7 {
        writeln!(rules, "[[service.s.allow]]\nfrom = [\"/x{n}\"]").unwrap();
    }
    let found = diff(&policy("[service.s]\n"), &policy(&rules), NOW);
    assert_eq!((found.gained.kept.len(), found.gained.more), (DIFF_CHANGES_MAX, 7));
}

#[test]
fn ten_thousand_rules_in_another_order_are_compared_in_a_moment() {
    let rule = |n: usize| {
        format!("[[service.s{}.allow]]\nfrom = [\"/x{n}/*\", \"/y/**\"]\ncalls = [\"GET /{n}\"]\n", n % 3)
    };
    let heads = "[service.s0]\n[service.s1]\n[service.s2]\n";
    let old: String = (0..RULES_MAX).map(rule).collect();
    let new: String = (1..RULES_MAX).rev().map(|n| rule(n).replace("/*\"", "/*\", \"/**\"")).collect();
    let (old, new) = (policy(&format!("{heads}{old}")), policy(&format!("{heads}{new}")));
    let started = Instant::now();
    let found = diff(&old, &new, NOW);
    assert_eq!(found.lost.kept.len(), 1);
    assert_eq!(found.gained.kept.len() + found.gained.more, RULES_MAX - 1);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn what_is_too_intricate_ends_and_counts_as_gained() {
    let peers = |from: usize| (from..from + 900).map(|n| format!("/x{n}/**")).collect::<Vec<_>>();
    let calls: Vec<_> = (0..900).map(|n| format!("GET /{n}/**")).collect();
    let rule = |from, more: &str| {
        format!("[[service.s.allow]]\nfrom = {:?}\ncalls = {calls:?}\n{more}", peers(from))
    };
    let deep = format!(
        "[[service.s.allow]]\nfrom = [{:?}]\ncalls = [{:?}]\n",
        "/*".repeat(1_000),
        format!("GET {}", "/*".repeat(4_000))
    );
    let old = policy(&format!("[service.s]\n{}{deep}", rule(0, "expires = 2027-01-01\n")));
    let new = policy(&format!("[service.s]\n{}", rule(0, "")));
    let started = Instant::now();
    let found = diff(&old, &new, NOW);
    assert!(matches!(found.gained.kept.as_slice(), [Change::NotCompared { .. }]));
    assert!(found.gained.kept[0].sentence(Direction::Gained).contains("counts as gained"));
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
