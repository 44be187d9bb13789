//! `policy replay` and `policy suggest`, over access logs.

use serde_json::Value;

use crate::{POLICY, run_with};

/// A line of the called side over HTTP.
fn line(decision: &str, from: &str, call: &str) -> String {
    let (method, path) = call.split_once(' ').unwrap();
    http(decision, from, Some((method, path)))
}

fn http(decision: &str, from: &str, call: Option<(&str, &str)>) -> String {
    let (method, path) = call.unzip();
    serde_json::json!({
        "time": "2026-11-23T14:03:07.512Z", "direction": "inbound", "protocol": "http", "decision": decision,
        "from": format!("spiffe://shop.example/{from}"), "to": "spiffe://shop.example/payments", "port": "api",
        "method": method, "path": path, "a_key_of_tomorrow": 1,
    })
    .to_string()
}

fn tcp(decision: &str, from: &str) -> String {
    line(decision, from, "GET /").replace("\"http\"", "\"tcp\"").replace("\"api\"", "\"bulk\"")
}

fn replay(lines: &[String], args: &[&str]) -> (i32, String, String) {
    let log = lines.join("\n");
    let args = [&["replay", "policy.toml", "access.log"], args].concat();
    run_with(&[("policy.toml", POLICY), ("access.log", &log)], &args)
}

fn suggest(policy: &str, lines: &[String], args: &[&str]) -> (i32, String, String) {
    let log = lines.join("\n");
    let args = [&["suggest", "policy.toml", "--log", "access.log"], args].concat();
    run_with(&[("policy.toml", policy), ("access.log", &log)], &args)
}

#[test]
fn replay_says_what_would_now_be_denied_and_what_would_now_be_allowed() {
    let lines = [
        line("allow", "orders", "POST /charge"),
        line("allow", "orders", "GET /charges/7"),
        line("observed", "orders", "GET /charges/7"),
        line("deny", "orders", "POST /charge"),
        line("deny", "reports", "POST /charge"),
        http("allow", "orders", None),
    ];
    let (code, out, _) = replay(&lines, &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("now denied: 2 × orders -> payments port \"api\" GET /charges/7: "), "{out}");
    assert!(out.contains("now allowed: 1 × orders -> payments port \"api\" POST /charge: "), "{out}");
    assert!(out.contains("policy.toml:6"), "{out}");
    assert!(out.contains("unchanged: 2 passed and would pass, 1 denied and would be denied"), "{out}");
}

#[test]
fn replay_answers_in_one_order_though_questions_differ_in_the_protocol_alone() {
    let tcp = http("allow", "reports", None).replace("\"http\"", "\"tcp\"");
    let lines = [http("allow", "reports", None), tcp, http("allow", "stock", None)];
    let answer = || replay(&lines, &["--format", "json"]).1;
    let first: Value = serde_json::from_str(&answer()).unwrap();
    let protocols: Vec<_> = first["now_denied"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["protocol"].as_str().unwrap())
        .collect();
    assert_eq!(protocols.len(), 3);
    assert_eq!(protocols[..2], ["http", "tcp"]);
    // The tables are hashed with another seed in each run.
    for _ in 0..16 {
        assert_eq!(serde_json::from_str::<Value>(&answer()).unwrap(), first);
    }
    let (_, text, _) = replay(&lines, &[]);
    assert!(text.contains("port \"api\" (http): ") && text.contains("port \"api\" (tcp): "), "{text}");
}

#[test]
fn suggest_says_why_rules_that_are_an_inline_array_cannot_be_added_to() {
    let policy = "trust_domain = \"shop.example\"\n[service.orders]\n[service.payments]\n\
        allow = [ { from = [\"orders\"], calls = [\"GET /x\"] } ]\n";
    let (code, out, _) = suggest(policy, &[line("deny", "orders", "POST /charge")], &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("the rules of payments are an inline array"), "{out}");
    assert!(!out.contains("expired") && !out.contains("duplicate"), "{out}");
}

#[test]
fn replay_of_what_stays_as_it_was_is_a_yes() {
    let lines = [line("allow", "orders", "POST /charge"), line("deny", "reports", "POST /charge")];
    let (code, out, err) = replay(&lines, &[]);
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert_eq!(out, "unchanged: 1 passed and would pass, 1 denied and would be denied\n");
}

#[test]
fn lines_that_are_no_questions_are_counted_and_unreadable_ones_are_told() {
    let lines = [
        line("allow", "orders", "POST /charge"),
        line("refused", "orders", "POST /charge"),
        line("allow", "orders", "POST /charge").replace("inbound", "outbound"),
        String::new(),
        "not JSON".to_owned(),
        line("deny", "orders", "POST /charge").replace("spiffe://shop.example/orders", "192.0.2.7:80"),
        line("allow", "orders", "POST /charge").replace("shop.example/orders", "shop.example//orders"),
        format!("\"{}\"", "x".repeat(300_000)),
    ];
    let (code, out, err) = replay(&lines, &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("not decided: 1 of the calling side, 1 refused before any question"), "{out}");
    assert!(out.contains("1 from callers without an identity"), "{out}");
    for number in [5, 7, 8] {
        assert!(err.contains(&format!("line {number} is unreadable")), "{number}: {err}");
    }
    assert!(err.contains("3 lines unreadable"), "{err}");
    let (code, _, err) = replay(&["not JSON".to_owned()], &[]);
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = run_with(&[("policy.toml", POLICY)], &["replay", "policy.toml", "no.log"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn a_connect_without_a_path_and_a_path_cut_by_the_log_are_calls_that_no_rule_with_calls_allows() {
    let policy = POLICY.replace("POST /charge", "* /**");
    for line in [
        http("deny", "orders", Some(("CONNECT", ""))),
        http("deny", "orders", Some(("CONNECT", ""))).replace("\"\"", "null"),
        line("deny", "orders", &format!("GET /{}", "a".repeat(8 * 1024 - 1))),
    ] {
        let (code, out, _) =
            run_with(&[("policy.toml", &policy), ("a.log", &line)], &["replay", "policy.toml", "a.log"]);
        assert_eq!((code, &*out), (0, "unchanged: 0 passed and would pass, 1 denied and would be denied\n"));
        let (code, out, _) = suggest(&policy, &[line], &["--format", "json"]);
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &found["rules"]), (1, &serde_json::json!([])), "{found}");
    }
}

#[test]
fn replay_decides_as_of_the_time_that_is_asked_for() {
    let policy = POLICY.replace("port = \"api\"\nowner", "port = \"api\"\nexpires = 2026-12-31\nowner");
    let log = line("allow", "orders", "POST /charge");
    let at = |time: &str| {
        run_with(
            &[("policy.toml", &policy), ("access.log", &log)],
            &["replay", "policy.toml", "access.log", "--at", time],
        )
        .0
    };
    assert_eq!((at("2026-12-31T23:59:59Z"), at("2027-01-01T00:00:00Z")), (0, 1));
}

#[test]
fn replay_as_json_has_each_change_with_its_count() {
    let (_, out, _) = replay(&[line("allow", "reports", "GET /x")], &["--format", "json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    let denied = &found["now_denied"][0];
    assert_eq!((&denied["count"], &denied["call"]), (&1.into(), &"GET /x".into()), "{found}");
    assert_eq!((&denied["verdict"], &denied["rule"]), (&"deny".into(), &Value::Null));
    assert_eq!(found["unchanged"]["passing"], 0);
}

/// The file with the suggestion, and what it then says to the log.
fn with_suggestion(policy: &str, lines: &[String]) -> (String, i32) {
    let (code, snippet, err) = suggest(policy, lines, &[]);
    assert_eq!(code, 0, "{snippet}{err}");
    let whole = format!("{policy}\n{snippet}");
    let lines: Vec<_> = lines.iter().map(|line| line.replace("deny", "allow")).collect();
    let log = lines.join("\n");
    let files = [("policy.toml", &*whole), ("access.log", &*log)];
    (snippet, run_with(&files, &["replay", "policy.toml", "access.log"]).0)
}

#[test]
fn a_suggestion_allows_what_was_denied_or_observed_and_names_no_more() {
    let lines = [
        line("deny", "reports", "POST /charge"),
        line("observed", "visitor", "POST /charge"),
        line("deny", "reports", "GET /%63harges/7"),
        line("allow", "orders", "POST /charge"),
        tcp("deny", "reports"),
    ];
    let (snippet, replayed) = with_suggestion(POLICY, &lines);
    assert_eq!(replayed, 0, "{snippet}");
    assert!(snippet.contains("calls = [\"GET /charges/7\", \"POST /charge\"]"), "{snippet}");
    assert!(
        snippet.contains("from = [\"/visitor\"]\ncalls = [\"POST /charge\"]\nport = \"api\""),
        "{snippet}"
    );
    assert!(snippet.contains("from = [\"/reports\"]\nport = \"bulk\""), "{snippet}");
    assert!(!snippet.contains("orders"), "what is allowed needs no rule: {snippet}");
}

#[test]
fn callers_who_need_the_same_share_a_rule_and_many_paths_are_one_with_a_star() {
    let paths = (0..7).map(|at| format!("GET /charges/{at}/lines"));
    let lines: Vec<_> =
        paths.flat_map(|call| ["reports", "visitor"].map(|from| line("deny", from, &call))).collect();
    let (snippet, replayed) = with_suggestion(POLICY, &lines);
    assert_eq!(replayed, 0, "{snippet}");
    assert_eq!(snippet.matches("[[service.payments.allow]]").count(), 1, "{snippet}");
    assert!(
        snippet.contains("from = [\"/reports\", \"/visitor\"]\ncalls = [\"GET /charges/*/lines\"]"),
        "{snippet}"
    );
    assert!(snippet.contains("\"*\" stands for 5 or more different segments"), "{snippet}");
}

#[test]
fn what_no_rule_can_allow_is_said_in_words() {
    let lines = [
        line("deny", "reports", "GET //x"),
        line("deny", "reports", "CONNECT /"),
        line("deny", "reports", "get /x"),
        line("deny", "reports", "GET /a*b"),
        line("deny", "reports", "GET /a/*"),
        line("deny", "reports", "* /charge"),
        line("deny", "reports", "GET /long…"),
        line("deny", "reports", "GET /x").replace("/payments", "/unknown"),
        line("deny", "reports", "GET /x").replace("\"api\"", "\"other\""),
        tcp("deny", "reports").replace("\"bulk\"", "\"api\""),
        http("deny", "reports", None),
    ];
    let (code, out, err) = suggest(POLICY, &lines, &["--format", "json"]);
    let found: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!((code, found["rules"].as_array().unwrap().len()), (1, 0), "{found}");
    assert_eq!(found["notes"].as_array().unwrap().len(), lines.len(), "{found}");
    assert!(out.contains("[service.NAME]") && out.contains("allow the calls it needs"), "{out}");
}

#[test]
fn a_suggestion_fits_a_file_that_demands_owner_and_end() {
    let policy = POLICY.replace(
        "trust_domain = \"shop.example\"\n",
        "trust_domain = \"shop.example\"\nrequire = [\"owner\", \"reason\", \"expires\"]\n",
    );
    let policy = policy.replace("owner = \"team", "expires = 2030-01-01\nowner = \"team");
    let (snippet, _) = with_suggestion(&policy, &[line("deny", "reports", "POST /charge")]);
    assert!(snippet.contains("owner = \"to be named\"") && snippet.contains("expires = "), "{snippet}");
}

#[test]
fn where_nothing_is_missing_nothing_is_suggested() {
    let (code, out, _) = suggest(POLICY, &[line("deny", "orders", "POST /charge")], &[]);
    assert_eq!(code, 0);
    assert!(out.starts_with("# nothing is missing"), "{out}");
}

#[test]
fn what_does_not_fit_the_file_is_said_and_the_rest_is_suggested() {
    let expired = POLICY.replace("owner = \"team", "expires = 2026-01-01\nowner = \"team");
    let inline = POLICY
        .replace("[service.orders]", "[service]\ninline = { ports = { api = \"http\" } }\n[service.orders]");
    let partner = format!("{POLICY}\n[service.refunds]\nidentity = \"spiffe://partner.example/refunds\"\n");
    let refused = line("deny", "reports", "GET /x");
    for (policy, refused, why) in [
        (expired, line("deny", "orders", "POST /charge"), "it has expired"),
        (inline, refused.replace("/payments", "/inline"), "write the service as [service.inline]"),
        (partner, refused.replace("shop.example/payments", "partner.example/refunds"), "has no `allow`"),
    ] {
        let other = line("deny", "visitor", "GET /x");
        let (code, out, err) = suggest(&policy, &[refused, other], &["--format", "json"]);
        let found: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        assert_eq!((code, found["rules"].as_array().unwrap().len()), (1, 1), "{found}");
        assert_eq!(found["notes"].as_array().unwrap().len(), 1, "{found}");
        assert!(found["notes"][0].as_str().unwrap().contains(why), "{found}");
    }
}

#[test]
fn what_a_rule_opens_beyond_a_call_and_whom_no_service_declares_is_said_above_it() {
    let to_orders = |line: String| line.replace("example/payments", "example/orders");
    let (snippet, replayed) = with_suggestion(POLICY, &[to_orders(tcp("deny", "visitor"))]);
    assert_eq!(replayed, 0, "{snippet}");
    assert!(snippet.starts_with("# asked for once\n# no declared service: [\"/visitor\"]\n"), "{snippet}");
    assert!(
        snippet.contains("orders declares no ports, so this allows everything on whichever"),
        "{snippet}"
    );
    let (snippet, _) = with_suggestion(POLICY, &[to_orders(line("deny", "payments", "GET /x"))]);
    assert!(!snippet.contains("no declared service"), "{snippet}");
    assert!(
        snippet.contains("orders declares no ports, so this allows these calls on whichever"),
        "{snippet}"
    );
}

#[test]
fn more_calls_than_a_list_may_have_are_several_rules() {
    let lines: Vec<_> = (0..1_001).map(|at| line("deny", "reports", &format!("GET /{at}/x{at}"))).collect();
    let (snippet, replayed) = with_suggestion(POLICY, &lines);
    assert_eq!(replayed, 0);
    assert_eq!(snippet.matches("[[service.payments.allow]]").count(), 2, "{snippet}");
    assert!(snippet.contains("# goes on with the rule above"), "{snippet}");
}

#[test]
fn callers_without_an_identity_are_said_and_named_by_no_rule() {
    let nameless = line("deny", "x", "GET /x").replace("spiffe://shop.example/x", "192.0.2.7:80");
    let (code, out, err) = suggest(POLICY, &[nameless], &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(err, "1 line from callers without an identity, whom no rule can name\n");
}

#[test]
fn a_caller_who_asked_for_very_much_does_not_keep_the_others_from_a_suggestion() {
    let many = (0..200).map(|at| line("deny", "scanner", &format!("GET /{at}/{at}{}", "x".repeat(8_000))));
    let more =
        (0..30_000).map(|at| line("deny", "crawler", &format!("GET /{at}/abcdefghijklmnopqrstuv{at}")));
    let lines: Vec<_> = many.chain(more).chain([line("deny", "reports", "GET /x")]).collect();
    let (code, out, err) = suggest(POLICY, &lines, &[]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("from = [\"/reports\"]\ncalls = [\"GET /x\"]"), "{out}");
    assert_eq!(out.matches("[[service.payments.allow]]").count(), 1, "{out}");
    assert!(out.contains("# - 200 × [\"/scanner\"] -> payments, "), "{out}");
    assert!(out.contains("and 195 more: with it the file would have more than the 1048576 bytes"), "{out}");
}

#[test]
fn no_more_rules_are_suggested_than_a_file_may_have() {
    let rule = |at: usize| format!("[[service.orders.allow]]\nfrom = [\"/caller/{at}\"]\n");
    let policy = format!("{POLICY}\n{}", (0..9_998).map(rule).collect::<String>());
    let lines: Vec<_> =
        (0..4).map(|at| line("deny", &format!("caller{at}"), &format!("GET /{at}/x{at}"))).collect();
    let (code, out, err) = suggest(&policy, &lines, &["--format", "json"]);
    let found: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let lengths = ["rules", "notes"].map(|key| found[key].as_array().unwrap().len());
    assert_eq!((code, lengths), (1, [1, 3]), "{found}");
}
