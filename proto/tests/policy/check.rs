//! policy.md `check`: all problems of a file, each with its place, and the bounds.

use postern_proto::policy::{
    EXPECTATIONS_MAX, FILE_BYTES_MAX, LIST_ENTRIES_MAX, PROBLEMS_MAX, Policy, ProblemKind, RULES_MAX,
    Severity, check,
};

use crate::ask::{NOW, errors, one_rule, policy, warnings};

fn second_rule(first: &str, second: &str) -> String {
    format!("{}[[service.payments.allow]]\n{second}\n", one_rule(first))
}

#[test]
fn all_problems_of_a_file_come_in_one_run_in_its_order() {
    let text = "trust_domain = \"Shop\"\nowner = 1\n[service.A]\nmode = \"off\"\n[[service.A.allow]]\nfrom = [\"b\", \"/x*\"]\ncalls = []\n";
    let problems = Policy::parse("p.toml", text).unwrap_err();
    let places: Vec<_> =
        problems.iter().map(|problem| (problem.line, problem.column, problem.kind)).collect();
    assert_eq!(
        places,
        [
            (1, 16, ProblemKind::TrustDomain),
            (2, 1, ProblemKind::UnknownKey),
            (3, 10, ProblemKind::ServiceName),
            (4, 8, ProblemKind::WrongValue),
            (6, 9, ProblemKind::UnknownService),
            (6, 14, ProblemKind::Peer),
            (7, 9, ProblemKind::Empty),
        ]
    );
}

#[test]
fn a_problem_shows_place_line_found_and_suggestion() {
    let text = "trust_domain = \"shop.example\"\n[service.orders]\nmod = \"observe\"\n";
    let shown = Policy::parse("p.toml", text).unwrap_err()[0].to_string();
    let expected = "p.toml:3:1: error: unknown key \"mod\": a service has identity, ports, mode, allow\n    \
                    mod = \"observe\"\n    ^^^\n    did you mean \"mode\"?";
    assert_eq!(shown, expected);
}

#[test]
fn problems_of_syntax_and_of_meaning_come_together() {
    let text = "trust_domain = \"shop.example\"\n[service.a]\nmode = observe\n[service.b]\nmood = \"x\"\n[service.c\n";
    let kinds: Vec<_> = Policy::parse("p", text)
        .unwrap_err()
        .into_iter()
        .map(|problem| (problem.line, problem.kind))
        .collect();
    assert_eq!(kinds, [(3, ProblemKind::Syntax), (5, ProblemKind::UnknownKey), (6, ProblemKind::Syntax)]);
}

#[test]
fn control_characters_of_the_file_are_escaped() {
    for hostile in ["\u{1b}[31m", "\u{7}", "\u{7f}", "\u{202e}", "\u{0}"] {
        let texts = [
            format!("trust_domain = \"{hostile}\""),
            format!("trust_domain = {hostile}"),
            format!("{hostile} = 1"),
            format!("[service.\"{hostile}\"]"),
            format!("\"{hostile}\" = 1"),
        ];
        for text in texts {
            for problem in Policy::parse("p", &text).unwrap_err() {
                let shown = problem.to_string();
                assert!(
                    !shown.replace('\n', "").contains(|c: char| c.is_control() || c == '\u{202e}'),
                    "{shown:?}"
                );
            }
        }
    }
}

#[test]
fn the_same_rule_twice_is_an_error_whatever_its_order_or_its_authors() {
    let first = "from = [\"orders\", \"/x\"]\ncalls = [\"GET /a\", \"GET /b\"]\nowner = \"a\"";
    let second = "from = [\"/x\", \"spiffe://shop.example/orders\"]\ncalls = [\"GET /b\", \"GET /a\"]\nexpires = 2030-01-01";
    assert_eq!(errors(&second_rule(first, second)), [ProblemKind::Duplicate]);
    for other in [
        "from = [\"orders\"]\ncalls = [\"GET /a\"]",
        "from = [\"orders\", \"/x\"]",
        "from = [\"orders\", \"/y\"]\ncalls = [\"GET /a\", \"GET /b\"]",
    ] {
        assert_eq!(errors(&second_rule(first, other)), [], "{other}");
    }
    let elsewhere = format!("{}[[service.orders.allow]]\n{first}\n", one_rule(first));
    assert_eq!(errors(&elsewhere), []);
}

#[test]
fn one_peer_or_call_twice_in_a_list_is_an_error() {
    for second in ["orders", "/orders", "spiffe://shop.example/orders"] {
        assert_eq!(errors(&one_rule(&format!("from = [\"orders\", {second:?}]"))), [ProblemKind::Duplicate]);
    }
    assert_eq!(errors(&one_rule("from = [\"/a/*\", \"/a/*\"]")), [ProblemKind::Duplicate]);
    assert_eq!(errors(&one_rule("from = [\"/a/*\", \"/a/b\"]")), []);
    assert_eq!(
        errors(&one_rule("from = [\"orders\"]\ncalls = [\"GET /\", \"GET /\"]")),
        [ProblemKind::Duplicate]
    );
}

#[test]
fn a_key_or_table_twice_is_an_error() {
    for text in ["[service.a]\n[service.a]", "[service.a]\nmode = \"enforce\"\nmode = \"observe\""] {
        assert_eq!(errors(text), [ProblemKind::Duplicate]);
    }
}

#[test]
fn other_spellings_of_a_call_are_refused_and_the_right_one_is_shown() {
    for (written, right) in [
        ("GET /%63harge", Some("GET /charge")),
        ("GET /a%2a", Some("GET /a%2A")),
        ("get /a", Some("GET /a")),
        ("GET  /a", Some("GET /a")),
        ("GET /a?x=1", Some("GET /a")),
        ("/a", Some("* /a")),
        ("GET /a/../b", None),
        ("GET /a;b", None),
        ("CONNECT /a", None),
    ] {
        let text = format!(
            "trust_domain = \"shop.example\"\n{}",
            one_rule(&format!("from = [\"orders\"]\ncalls = [{written:?}]"))
        );
        let problems = Policy::parse("p", &text).unwrap_err();
        assert_eq!(problems.len(), 1, "{written}");
        assert_eq!(problems[0].kind, ProblemKind::Call, "{written}");
        assert_eq!(problems[0].suggestion, right.map(|right| format!("write {right:?}")), "{written}");
    }
}

#[test]
fn a_rule_that_ends_soon_or_has_ended_is_a_warning() {
    for (expires, kinds) in [
        ("2026-11-22", vec![ProblemKind::Expired]),
        ("2026-11-23", vec![ProblemKind::Expiring]),
        ("2026-12-06", vec![ProblemKind::Expiring]),
        ("2026-12-07T12:00:00Z", vec![]),
        ("2026-12-07T11:59:59Z", vec![ProblemKind::Expiring]),
        ("2026-12-07", vec![]),
        ("2027-01-01", vec![]),
    ] {
        assert_eq!(
            warnings(&one_rule(&format!("from = [\"orders\"]\nexpires = {expires}"))),
            kinds,
            "{expires}"
        );
    }
}

#[test]
fn how_far_ahead_is_the_callers_choice() {
    let text =
        format!("trust_domain = \"shop.example\"\n{}", one_rule("from = [\"orders\"]\nexpires = 2027-01-01"));
    let expiring =
        |days| check("p", &text, NOW, days).problems.iter().any(|p| p.kind == ProblemKind::Expiring);
    assert!(!expiring(14) && !expiring(0) && expiring(60) && expiring(u16::MAX));
}

#[test]
fn a_rule_wholly_covered_by_another_is_a_warning() {
    for (wide, narrow) in [
        ("from = [\"/**\"]", "from = [\"orders\"]"),
        ("from = [\"orders\", \"/x\"]", "from = [\"orders\"]"),
        ("from = [\"orders\"]", "from = [\"orders\"]\ncalls = [\"GET /\"]"),
        (
            "from = [\"orders\"]\ncalls = [\"* /**\"]",
            "from = [\"orders\"]\ncalls = [\"GET /a\", \"POST /b/*\"]",
        ),
        (
            "from = [\"/a/*\"]\ncalls = [\"GET /a/**\"]",
            "from = [\"/a/b\"]\ncalls = [\"GET /a/\", \"GET /a/b/c\"]",
        ),
        ("from = [\"orders\", \"/x\"]", "from = [\"orders\"]\nexpires = 2030-01-01"),
        ("from = [\"/*\", \"/*/**\"]", "from = [\"/**\"]"),
    ] {
        for text in [second_rule(wide, narrow), second_rule(narrow, wide)] {
            let kinds = warnings(&text);
            assert_eq!(kinds.iter().filter(|kind| **kind == ProblemKind::Covered).count(), 1, "{text}");
        }
    }
}

#[test]
fn a_rule_that_allows_more_anywhere_is_not_covered() {
    for (other, rule) in [
        ("from = [\"orders\"]\ncalls = [\"* /**\"]", "from = [\"orders\"]"),
        ("from = [\"/*\"]", "from = [\"/a/b\"]"),
        ("from = [\"orders\"]\ncalls = [\"GET /*\"]", "from = [\"orders\"]\ncalls = [\"GET /\"]"),
        ("from = [\"orders\"]\ncalls = [\"GET /a\"]", "from = [\"orders\"]\ncalls = [\"HEAD /a\"]"),
        ("from = [\"orders\", \"/x\"]\nexpires = 2027-06-01", "from = [\"orders\"]"),
        ("from = [\"/*/**\"]", "from = [\"/**\"]"),
    ] {
        let found =
            check("p", &format!("trust_domain = \"shop.example\"\n{}", second_rule(other, rule)), NOW, 14);
        let covered: Vec<_> =
            found.problems.iter().filter(|p| p.kind == ProblemKind::Covered && p.line > 6).collect();
        assert!(covered.is_empty(), "{covered:?}");
    }
}

#[test]
fn cover_looks_at_the_ports_on_which_a_rule_can_allow_anything() {
    let ports =
        |first: &str, second: &str| {
            let text = second_rule(first, second);
            warnings(&text.replace(
                "[service.payments]",
                "[service.payments]\nports = { api = \"http\", bulk = \"tcp\" }",
            ))
        };
    let both = "from = [\"orders\"]";
    assert_eq!(ports(both, "from = [\"orders\"]\nport = \"api\""), [ProblemKind::Covered]);
    assert_eq!(ports("from = [\"orders\", \"/x\"]\nport = \"api\"", both), []);
    let calls = "from = [\"orders\"]\ncalls = [\"GET /\"]";
    assert_eq!(ports(&format!("{both}\nport = \"api\""), calls), [ProblemKind::Covered]);
    assert_eq!(ports(&format!("{both}\nport = \"bulk\""), calls), []);
}

#[test]
fn a_service_without_expectation_is_a_warning() {
    let text = "trust_domain = \"shop.example\"\n[service.a]\n[service.b]\n[service.p]\nidentity = \"spiffe://p.example/p\"\n[[expect]]\nfrom = \"a\"\nto = \"b\"\nverdict = \"deny\"\n";
    let found = check("p", text, NOW, 14).problems;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, found[0].line, found[0].severity),
        (ProblemKind::NoExpectation, 2, Severity::Warning)
    );
}

#[test]
fn the_largest_file_has_1_mib() {
    let text = "trust_domain = \"shop.example\"\n#";
    let filled = |bytes: usize| format!("{text}{}", "x".repeat(bytes - text.len()));
    assert!(Policy::parse("p", &filled(FILE_BYTES_MAX)).is_ok());
    assert_eq!(Policy::parse("p", &filled(FILE_BYTES_MAX + 1)).unwrap_err()[0].kind, ProblemKind::Bound);
}

#[test]
fn a_list_has_at_most_1000_entries() {
    let peers = |count: usize| (0..count).map(|n| format!("\"/p{n}\"")).collect::<Vec<_>>().join(",");
    let calls = |count: usize| (0..count).map(|n| format!("\"GET /{n}\"")).collect::<Vec<_>>().join(",");
    let ports = |count: usize| (0..count).map(|n| format!("p{n} = \"tcp\"")).collect::<Vec<_>>().join(",");
    for (entries, expected) in [(LIST_ENTRIES_MAX, vec![]), (LIST_ENTRIES_MAX + 1, vec![ProblemKind::Bound])]
    {
        assert_eq!(errors(&one_rule(&format!("from = [{}]", peers(entries)))), expected);
        assert_eq!(
            errors(&one_rule(&format!("from = [\"orders\"]\ncalls = [{}]", calls(entries)))),
            expected
        );
        assert_eq!(errors(&format!("[service.a]\nports = {{ {} }}", ports(entries))), expected);
    }
}

#[test]
fn a_file_has_at_most_10000_rules_over_all_its_services() {
    let rules = |service: &str, count: usize| -> String {
        (0..count).map(|n| format!("[[service.{service}.allow]]\nfrom=[\"/{n}\"]\n")).collect()
    };
    let half = RULES_MAX / 2;
    assert_eq!(policy(&format!("{}{}", rules("a", half), rules("b", half))).services().len(), 2);
    assert_eq!(errors(&format!("{}{}", rules("a", half), rules("b", half + 1))), [ProblemKind::Bound]);
}

#[test]
fn a_file_has_at_most_10000_expectations() {
    let expect = |count: usize| "[[expect]]\nfrom=\"a\"\nto=\"a\"\nverdict=\"deny\"\n".repeat(count);
    assert_eq!(
        policy(&format!("[service.a]\n{}", expect(EXPECTATIONS_MAX))).expectations().len(),
        EXPECTATIONS_MAX
    );
    assert_eq!(errors(&format!("[service.a]\n{}", expect(EXPECTATIONS_MAX + 1))), [ProblemKind::Bound]);
}

#[test]
fn problems_beyond_the_bound_are_counted() {
    let text: String = (0..PROBLEMS_MAX + 7).map(|n| format!("k{n} = 1\n")).collect();
    let found = Policy::parse("p", &format!("trust_domain = \"a\"\n{text}")).unwrap_err();
    assert_eq!(found.len(), PROBLEMS_MAX + 1);
    assert!(found.iter().any(|problem| problem.message.contains("7 more errors")));
}

#[test]
fn however_many_warnings_refuse_no_policy() {
    let text: String = (0..PROBLEMS_MAX + 7).map(|n| format!("[service.s{n}]\n")).collect();
    let found = check("p", &format!("trust_domain = \"a\"\n{text}"), NOW, 14);
    assert!(found.policy.is_some());
    assert_eq!(found.problems.len(), PROBLEMS_MAX + 1);
    assert!(found.problems.iter().all(|problem| problem.severity == Severity::Warning));
}

#[test]
fn no_number_of_warnings_hides_an_error() {
    let text: String = (0..PROBLEMS_MAX + 7)
        .map(|n| format!("[[service.a.allow]]\nfrom=[\"/**\"]\ncalls=[\"GET /{n}\"]\n"))
        .collect();
    assert_eq!(errors(&format!("{text}[service.a]\nmode = \"x\"")), [ProblemKind::WrongValue]);
}
