//! The check of a policy: any input ends, within bounds, and none panics.

use postern_proto::policy::{
    Call, Checked, EXPECTATIONS_MAX, FILE_BYTES_MAX, PROBLEMS_MAX, Policy, RULES_MAX, Service, check, decide,
    normalise, run_expectations,
};
use proptest::prelude::*;

use crate::ask::{HTTP, NOW, one_rule};

/// Errors, warnings of the reader and warnings of the check have the bound each, and one line more that counts the rest.
const ALL_PROBLEMS_MAX: usize = 3 * (PROBLEMS_MAX + 1);
const SHOWN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// That the check ends, and says no more than it may.
fn ends(what: &str, text: &str) -> Checked {
    assert!(text.len() <= FILE_BYTES_MAX, "{what} has {} bytes", text.len());
    let checked = check("p", text, NOW, 14);
    let shown: usize = checked.problems.iter().map(|problem| problem.to_string().len()).sum();
    assert!(checked.problems.len() <= ALL_PROBLEMS_MAX, "{what}: {} problems", checked.problems.len());
    assert!(shown < SHOWN_BYTES_MAX, "{what} says {shown} bytes");
    checked
}

/// That a right policy is read whole, and each of its expectations is judged.
fn ends_right(what: &str, text: &str) {
    let checked = ends(what, text);
    let policy = checked.policy.unwrap_or_else(|| panic!("{what}: {:?}", checked.problems.first()));
    let rules = policy.services().iter().map(Service::rule_count).sum::<usize>();
    let read = (policy.services().len(), rules, run_expectations(&policy, NOW).len());
    let count = |heading: &str| text.lines().filter(|line| line.starts_with(heading)).count();
    assert_eq!(read, (count("[service."), count("[[service."), count("[[expect]]")), "{what}");
}

/// As many rules as a file may have.
fn rules(unit: impl Fn(usize) -> String) -> String {
    filled(|number| {
        if number < RULES_MAX { format!("[[service.a.allow]]\n{}\n", unit(number)) } else { String::new() }
    })
}

fn filled(unit: impl Fn(usize) -> String) -> String {
    let mut text = "trust_domain = \"shop.example\"\n[service.a]\n".to_owned();
    for number in 0..60_000 {
        let next = unit(number);
        if text.len() + next.len() > FILE_BYTES_MAX {
            break;
        }
        text.push_str(&next);
    }
    text
}

#[test]
fn deep_nesting_ends_before_the_reader_recurses() {
    for unit in ["[", "{a=", "a.", "[[", "]", "x=[", "\"a\"."] {
        let text = format!("x = {}", unit.repeat((FILE_BYTES_MAX - 4) / unit.len()));
        ends(unit, &text);
        ends(unit, text.trim_start_matches("x = "));
    }
}

#[test]
fn floods_of_one_kind_of_mistake_end() {
    ends("unknown keys", &filled(|n| format!("k{n}=1\n")));
    ends("unknown services", &filled(|n| format!("[[service.s{n}.allow]]\nfrom=[\"x{n}\"]\n")));
    ends("broken lines", &filled(|_| "=\n".to_owned()));
    ends("one broken line", &filled(|_| "= ".to_owned()));
    ends("quotes", &filled(|_| "\"\n".to_owned()));
    ends("duplicate keys", &filled(|_| "a=1\n".to_owned()));
    ends(
        "one long line of unknown words",
        &filled(|n| format!("{}\"x{n}\"", if n == 0 { "mode=[" } else { "," })),
    );
    ends("controls", &filled(|_| "\u{1b}\n".to_owned()));
}

#[test]
fn the_largest_right_policies_end() {
    ends_right("services", &filled(|n| format!("[service.s{n}]\n")));
    ends_right("rules", &rules(|n| format!("from=[\"/x{n}\"]")));
    ends_right("rules for everyone", &rules(|n| format!("from=[\"/**\"]\ncalls=[\"GET /a\",\"GET /{n}\"]")));
    ends_right("patterns", &rules(|n| format!("from=[\"/*/{n}/**\",\"/**\"]")));
    let subsets = |n: usize| -> String {
        (0..14).filter(|bit| n & (1 << bit) != 0).map(|bit| format!("\"GET /{bit}\",")).collect()
    };
    ends_right("subsets of calls", &rules(|n| format!("from=[\"/**\"]\ncalls=[{}]", subsets(n + 1))));
    let deep = format!("/{}", vec!["a"; 1000].join("/"));
    ends_right("deep patterns", &rules(|n| format!("from=[\"{deep}\",\"/{n}/**\"]")));
    let split: String = (1..40).map(|n| format!("\"{}\",", "/*".repeat(n))).collect();
    let parts = |n: usize| if n < 100 { format!("{split}\"/{n}\"") } else { format!("\"/**\",\"/{n}\"") };
    ends_right("patterns in parts", &rules(|n| format!("from=[{}]", parts(n))));
    let ports: String = (0..1000).map(|n| format!("p{n}=\"tcp\",")).collect();
    ends_right(
        "expectations on every port",
        &filled(|n| match n {
            0 => format!("ports={{{}}}\n", ports.trim_end_matches(',')),
            _ if n > EXPECTATIONS_MAX => String::new(),
            _ => "[[expect]]\nfrom=\"a\"\nto=\"a\"\nverdict=\"deny\"\n".to_owned(),
        }),
    );
}

const EXAMPLE: &str = "trust_domain = \"shop.example\"\nrequire = [\"owner\"]\n[service.payments]\nidentity = \"/ns/x\"\n\
    ports = { api = \"http\", bulk = \"tcp\" }\nmode = \"observe\"\n[[service.payments.allow]]\nfrom = [\"orders\", \"/a/**\"]\n\
    calls = [\"POST /charge\", \"GET /c/*\"]\nport = \"api\"\nowner = \"x\"\nexpires = 2027-06-30\n[service.orders]\n\
    [[expect]]\nfrom = \"orders\"\nto = \"payments\"\ncall = \"POST /charge\"\nverdict = \"allow\"\n";

#[test]
fn the_example_is_right() {
    assert!(Policy::parse("p", EXAMPLE).is_ok(), "{:?}", Policy::parse("p", EXAMPLE));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in "\\PC{0,60}|[\\[\\]{}=\".,'#\\n a-c0-9_-]{0,80}|[\\x00-\\x7f\u{80}-\u{2fff}]{0,40}") {
        let checked = check("p", &text, NOW, 14);
        prop_assert_eq!(checked.policy.is_none(), !checked.problems.is_empty() && checked.problems.iter().any(|p| p.severity == postern_proto::policy::Severity::Error));
    }

    #[test]
    fn no_mutation_of_a_policy_panics(cuts in proptest::collection::vec((0usize..520, 0usize..30, "[\\[\\]{}=\".,'#\\n a-c0-9*/]{0,6}"), 1..4)) {
        let mut text = EXAMPLE.to_owned();
        for (at, length, insert) in cuts {
            let at = at.min(text.len());
            text.replace_range(at..(at + length).min(text.len()), &insert);
        }
        for problem in check("p", &text, NOW, 14).problems {
            prop_assert!(problem.line >= 1 && problem.column >= 1);
            let shown = problem.to_string();
            prop_assert!(!shown.is_empty());
        }
    }

    #[test]
    fn no_question_panics(method in "\\PC{0,10}|[A-Z]{1,4}", path in "\\PC{0,20}|/[a-c%/;.]{0,20}", peer in "\\PC{0,20}|/[a-z*/]{0,9}") {
        let policy = crate::ask::policy(&one_rule("from = [\"/**\"]\ncalls = [\"* /**\"]"));
        let call = Call { method: &method, path: &path };
        if let Ok(peer) = policy.peer(&peer) {
            let target = policy.identity_of("payments").unwrap();
            let decision = decide(&policy, &peer, target, HTTP, Some(call), NOW);
            prop_assert!(!decision.reason().contains(|c: char| c.is_control()));
        }
        let _ = normalise(&path);
        let _ = Call::parse(&path);
    }
}
