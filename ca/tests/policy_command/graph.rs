//! `graph`: who may call whom, as DOT, as SVG and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{POLICY, run};

/// Circles, patterns, everyone, a partner, an observer, and text that each format must escape.
const SHOP: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "http" }
[[service.payments.allow]]
from = ["orders", "/ns/*"]
calls = ["POST /charge", "GET /a&b<c>"]
port = "api"
reason = "quoted \"so\" & <so>"
[[service.payments.allow]]
from = ["payments"]
[service.orders]
mode = "observe"
[[service.orders.allow]]
from = ["payments", "/**", "spiffe://partner.example/x"]
[[service.orders.allow]]
from = ["/gone"]
expires = 2026-01-01
"#;

fn graph(policy: &str, more: &[&str]) -> (i32, String, String) {
    run(policy, &[&["graph", "policy.toml"], more].concat())
}

#[test]
fn graph_as_json_has_every_node_and_edge_with_its_rules() {
    let (code, out, _) = graph(SHOP, &["--format", "json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    let nodes: Vec<_> =
        found["nodes"].as_array().unwrap().iter().map(|node| (&node["name"], &node["kind"])).collect();
    let expected = [
        ("payments", "service"),
        ("orders", "service"),
        ("/ns/*", "pattern"),
        ("/**", "everyone"),
        ("spiffe://partner.example/x", "identity"),
    ]
    .map(|(name, kind)| (json!(name), json!(kind)));
    assert_eq!(nodes, expected.iter().map(|(name, kind)| (name, kind)).collect::<Vec<_>>());
    assert_eq!(found["nodes"][1]["mode"], "observe");
    let edges = found["edges"].as_array().unwrap();
    assert_eq!(edges.len(), 6, "the rule that is over is left out: {out}");
    let permit = &edges.iter().find(|edge| edge["from"] == "/ns/*").unwrap()["permits"][0];
    assert_eq!(permit["calls"], json!(["POST /charge", "GET /a&b<c>"]));
    assert_eq!((&permit["port"], &permit["rule"]["line"]), (&json!("api"), &json!(4)));
}

#[test]
fn graph_is_dot_unless_told_otherwise_and_escapes_it() {
    let (code, out, _) = graph(SHOP, &[]);
    assert!(code == 0 && out.starts_with("digraph policy {") && out.trim_end().ends_with('}'), "{out}");
    assert!(out.contains(r#"quoted \"so\" & <so>"#) && out.contains("xlabel=\"observes\""), "{out}");
    assert_eq!(out.matches(" -> ").count(), 6);
}

#[test]
fn graph_as_svg_is_well_formed_and_says_where_each_arrow_comes_from() {
    let (code, out, _) = graph(SHOP, &["--format", "svg"]);
    assert_eq!(code, 0);
    let words = out
        .replace("&amp;", "")
        .replace("&lt;", "")
        .replace("&gt;", "")
        .replace("&quot;", "")
        .replace("&#10;", "");
    assert!(!words.contains('&'), "{words}");
    assert!(out.contains("policy.toml:4") && out.contains("quoted &quot;so&quot; &amp; &lt;so&gt;"), "{out}");
    for said in ["only observes", "everyone", "prefers-color-scheme: dark", "calls itself"] {
        assert!(out.contains(said), "{said}");
    }
    for element in ["g", "svg", "marker", "text", "title"] {
        let (opened, closed) = (format!("<{element}"), format!("</{element}>"));
        let opened = [" ", ">"].iter().map(|end| out.matches(&(opened.clone() + end)).count()).sum::<usize>();
        assert_eq!(opened, out.matches(&closed).count(), "{element}");
    }
    assert!(!out.contains("NaN") && !out.contains("inf"), "{out}");
}

#[test]
fn graph_writes_what_the_file_is_named_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.svg");
    let (code, out, _) = graph(POLICY, &["--output", path.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("<svg "));
    let nowhere = dir.path().join("none/policy.svg");
    assert_eq!(graph(POLICY, &["--output", nowhere.to_str().unwrap()]).0, 2);
}

#[test]
fn graph_of_nothing_and_of_too_much_is_answered() {
    let empty = "trust_domain = \"shop.example\"\n";
    for format in ["dot", "svg", "json"] {
        assert_eq!(graph(empty, &["--format", format]).0, 0, "{format}");
    }
    let mut many = empty.to_owned();
    (0..501).for_each(|n| writeln!(many, "[service.s{n}]").unwrap());
    let (code, out, err) = graph(&many, &["--format", "svg"]);
    assert!(code == 1 && out.is_empty() && err.contains("501 nodes"), "{err}");
    assert_eq!(graph(&many, &["--format", "dot"]).0, 0);
}

#[test]
fn graph_shows_what_holds_at_a_time() {
    let (_, out, _) = graph(SHOP, &["--format", "json", "--at", "2025-12-31T00:00:00Z"]);
    assert!(out.contains("/gone"), "{out}");
}
