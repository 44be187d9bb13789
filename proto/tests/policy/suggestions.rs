//! What a problem suggests passes when it is written.

use postern_proto::policy::{Policy, Problem};

/// A good file with one place that can be wrong, in braces.
const RULE: &str = r#"trust_domain = "shop.example"
[service.orders]
[service.payments]
ports = { api = "http", bulk = "tcp" }
[[service.payments.allow]]
"#;

fn from(written: &str) -> String {
    format!("{RULE}from = [\"{written}\"]\n")
}

fn call(written: &str) -> String {
    format!("{RULE}from = [\"orders\"]\ncalls = [\"{written}\"]\n")
}

fn identity(written: &str) -> String {
    format!("trust_domain = \"shop.example\"\n[service.orders]\nidentity = \"{written}\"\n")
}

fn refusal(text: &str) -> Problem {
    let problems = Policy::parse("policy.toml", text).unwrap_err();
    problems.into_iter().find(|problem| problem.severity.as_str() == "error").unwrap()
}

/// What stands in quotes in a suggestion.
fn suggested(problem: &Problem) -> Option<String> {
    let text = problem.suggestion.as_deref()?;
    let (start, end) =
        (text.find("write \"").map_or_else(|| text.find('"'), |at| Some(at + 6))?, text.rfind('"')?);
    Some(text[start + 1..end].to_owned())
}

/// A file with one spelling in it, and the spellings that are tried there.
type Place = (fn(&str) -> String, &'static [&'static str]);

#[test]
fn every_suggested_spelling_is_accepted() {
    let lower = |text: &str| text.to_owned();
    let places: [Place; 8] = [
        (
            from,
            &[
                "orders/",
                "/orders/",
                "orders/x",
                "ns/*/sa/x",
                "spiffe://Shop.Example/orders",
                "//orders",
                " orders",
                "SPIFFE://shop.example/orders",
                "spiffe://shop.example/orders/",
                "spiffe://shop.example//orders",
                "order",
                "postern/ca/",
                "spiffe://Shop.Example/postern/ca",
                "spiffe://Partner.Example/a/**",
                "a*/b",
                "spiffe://shop.example",
                "spiffe://",
                "https://shop.example/orders",
                "",
                "/",
                "*",
                "/a b",
                "../x",
            ],
        ),
        (
            identity,
            &[
                "orders",
                "orders/",
                "/orders/",
                "spiffe://shop.example",
                "spiffe://Shop.Example/orders",
                "/a/*",
                "",
                "spiffe://Shop.Example",
                "SPIFFE://SHOP.EXAMPLE/Orders/",
                "//a//b",
                "spiffe:///a",
                "/postern/ca/",
            ],
        ),
        (
            call,
            &[
                "get /charges",
                "GET /charges?x=1",
                "/charges",
                "GET  /charges",
                "GET charges",
                "GET /a//b",
                "GET /a/./b",
                "GET /%61",
                "GET /a*",
                "GET",
                "",
                "G~T /a",
                "post /A/../b",
            ],
        ),
        (
            |name| format!("trust_domain = \"shop.example\"\n[service.\"{name}\"]\n"),
            &["Orders", "or_ders", "or ders", "", "ORDERS.V2"],
        ),
        (
            |name| format!("trust_domain = \"{name}\"\n"),
            &["Shop.Example", "spiffe://shop.example", "shop.example/", "shop example", ""],
        ),
        (|word| format!("{RULE}from = [\"orders\"]\nport = \"{word}\"\n"), &["apo", "bulk2", "x"]),
        (
            |word| format!("{RULE}from = [\"orders\"]\ncalls = [\"GET /\"]\nport = \"{word}\"\n"),
            &["apo", "bull", "bulkk", "x"],
        ),
        (
            |word| format!("trust_domain = \"shop.example\"\n[service.orders]\nmode = \"{word}\"\n"),
            &["enforced", "off"],
        ),
    ];
    let (mut count, mut none) = (0, Vec::new());
    for (file, writings) in places {
        for written in writings {
            let problem = refusal(&file(written));
            assert!(!problem.suggestion.as_deref().unwrap_or("x").ends_with("\"\""), "{problem}");
            if problem.suggestion.as_deref().is_some_and(|text| text.contains("wildcard")) {
                continue;
            }
            match suggested(&problem) {
                Some(right) => {
                    count += 1;
                    let repaired = Policy::parse("policy.toml", &file(&right));
                    assert!(repaired.is_ok(), "{written:?} → {right:?}: {}", repaired.unwrap_err()[0]);
                }
                None => none.push(lower(written)),
            }
        }
    }
    assert!(count >= 30, "{count} suggestions; none for {none:?}");
}

#[test]
fn the_spelling_that_was_meant_is_suggested() {
    for (file, right) in [
        (from("orders/"), "/orders"),
        (from("spiffe://Shop.Example/orders"), "spiffe://shop.example/orders"),
        (identity("orders"), "/orders"),
        (identity("spiffe://Shop.Example/orders/"), "spiffe://shop.example/orders"),
    ] {
        assert_eq!(suggested(&refusal(&file)).as_deref(), Some(right), "{file}");
    }
    assert_eq!(refusal(&identity("spiffe://shop.example")).suggestion, None);
}

#[test]
fn a_key_or_name_that_is_there_already_is_not_suggested() {
    let twice = format!("{RULE}from = [\"orders\"]\nform = [\"orders\"]\n");
    assert_eq!(refusal(&twice).suggestion, None);
    let required = "trust_domain = \"shop.example\"\nrequire = [\"owner\", \"owner2\"]\n";
    assert_ne!(suggested(&refusal(required)).as_deref(), Some("owner"));
    let names = "trust_domain = \"shop.example\"\n[service.orders]\n[service.Orders]\nidentity = \"/x\"\n";
    assert_eq!(refusal(names).suggestion, None);
}

#[test]
fn a_suggested_declaration_of_ports_is_toml() {
    for port in ["api", "my port", "a\\\"b"] {
        let text = format!(
            "trust_domain = \"shop.example\"\n[service.orders]\n[[service.orders.allow]]\nfrom = [\"/x\"]\nport = \"{port}\"\n"
        );
        let suggestion = refusal(&text).suggestion.unwrap();
        let ports = suggestion.strip_prefix("write ").unwrap().strip_suffix(" in [service.orders]").unwrap();
        let repaired = text.replace("[service.orders]\n[[", &format!("[service.orders]\n{ports}\n[["));
        assert!(Policy::parse("policy.toml", &repaired).is_ok(), "{suggestion}");
    }
}
