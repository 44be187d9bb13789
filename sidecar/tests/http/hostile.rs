//! What is not valid HTTP is refused and never reaches the app; what could be read two ways matches no rule that names
//! calls.

use crate::shop::{Seen, Shop, ask, say, seen};
use postern_sidecar::config::Http;

/// `orders` may do anything but CONNECT.
pub const ANYTHING: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "http" }
[[service.payments.allow]]
from = ["orders"]
[service.orders]
[service.reports]
[service.visitor]
"#;

async fn get(shop: &Shop, method: &str, target: &str) -> Seen {
    ask(&shop.orders, &format!("{method} {target} HTTP/1.1")).await
}

#[tokio::test]
async fn methods_are_compared_exactly_and_no_header_changes_them() {
    let shop = Shop::new().await;
    for method in ["post", "Post", "POSTS", "TRACE", "BREW", "HEAD", "PUT", "M-SEARCH", "PRI"] {
        let refused = get(&shop, method, "/charge").await;
        assert_eq!(refused.status(), 403, "{method}: {refused:?}");
    }
    let refused = ask(&shop.orders, "GET /charge HTTP/1.1\r\nx-http-method-override: POST").await;
    assert_eq!(refused.status(), 403, "{refused:?}");
    let refused = get(&shop, "CONNECT", "payments").await;
    assert_eq!((refused.status(), &refused.json()["type"]), (501, &"urn:postern:connect".into()));
}

#[tokio::test]
async fn an_ambiguous_path_matches_no_rule_with_calls_and_the_refusal_says_which_part() {
    let shop = Shop::new().await;
    for (path, part) in [
        ("//charges/7", "an empty segment"),
        ("/charges//7", "an empty segment"),
        ("/./charges/7", "the segment \".\""),
        ("/x/../charges/7", "the segment \"..\""),
        ("/x/%2e%2E/charges/7", "the segment \"..\""),
        ("/charges/%2e", "the segment \".\""),
        ("/charges%2f7", "an encoded"),
        ("/charges/%5c7", "an encoded"),
        ("/charges/%2e%2e%2f7", "an encoded"),
        ("/charges/7%00", "an encoded control character"),
        ("/charges/7%0a", "an encoded control character"),
        ("/charges/%2575", "an encoded"),
        ("/charges/7;a=b", "';'"),
        ("/charges\\7", "'\\\\'"),
        ("/charges/7%", "a broken percent-encoding"),
        ("/charges/7%zz", "a broken percent-encoding"),
        ("/charges/caf\u{e9}", "non-ASCII byte"),
    ] {
        let refused = get(&shop, "GET", path).await;
        assert_eq!(refused.status(), 403, "{path}: {refused:?}");
        let problem = refused.json();
        assert!(problem["detail"].as_str().unwrap().contains(part), "{path}: {problem}");
    }
    for path in ["/CHARGES/7", "/charges/7/", "/charges/", "/charges", "/charge", "/charges/7/8"] {
        let refused = get(&shop, "GET", path).await;
        assert_eq!(refused.status(), 403, "{path}: {refused:?}");
    }
}

#[tokio::test]
async fn one_call_has_one_spelling_to_the_policy_and_reaches_the_app_as_it_was_sent() {
    let shop = Shop::new().await;
    for target in
        ["/%63harges/7", "/charges/%37?x=%2f..//;#".trim_end_matches('#'), "/charges/7?", "/charges/%C3%a9"]
    {
        let told = get(&shop, "GET", target).await;
        assert_eq!(told.status(), 200, "{target}: {told:?}");
        assert_eq!(told.json()["target"], target);
    }
    let told = get(&shop, "GET", "http://payments/charges/7?x").await;
    assert_eq!((told.status(), &told.json()["target"]), (200, &"/charges/7?x".into()));
}

#[tokio::test]
async fn a_rule_without_calls_passes_every_path_as_it_is_but_no_connect() {
    let shop = Shop::with(|spec| spec.policy = Some(ANYTHING)).await;
    for target in ["//charge", "/x/../y", "/a;b", "/%2e%2e/", "/a%00b", "/charge%2f"] {
        let told = get(&shop, "BREW", target).await;
        assert_eq!((told.status(), &told.json()["target"]), (200, &target.into()), "{told:?}");
    }
    assert_eq!(get(&shop, "OPTIONS", "*").await.json()["target"], "*");
    assert_eq!(get(&shop, "CONNECT", "payments").await.status(), 501);
}

#[tokio::test]
async fn what_is_not_valid_http_is_a_400_and_closes_the_connection() {
    let shop = Shop::with(|spec| spec.policy = Some(ANYTHING)).await;
    let long = "a".repeat(70_000);
    for (what, request) in [
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n".to_owned()),
        ("host with a user", "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n".to_owned()),
        ("host with a path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n".to_owned()),
        ("host with a space", "GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned()),
        ("authorities disagree", "GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ("another scheme", "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ("a fragment", "GET /x#y HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ("asterisk with GET", "GET * HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ("authority-form with GET", "GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ("no target", "GET  HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ("a space in the target", "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ("a space before the colon", "GET / HTTP/1.1\r\nhost : a\r\n\r\n".to_owned()),
        ("a folded line", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n".to_owned()),
        ("NUL in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n".to_owned()),
        ("a name that is no token", "GET / HTTP/1.1\r\nhost: a\r\n\u{e9}: 1\r\n\r\n".to_owned()),
        ("both lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("both lengths, the other way", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n".to_owned()),
        ("two lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na".to_owned()),
        (
            "the same length twice",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na".to_owned(),
        ),
        ("a bare line feed", "GET / HTTP/1.1\nhost: a\n\n".to_owned()),
        ("one bare line feed", "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n".to_owned()),
        ("a signed length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na".to_owned()),
        ("a list of lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\na".to_owned()),
        ("a negative length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\na".to_owned()),
        ("a length of 2^64", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\n".to_owned()),
        ("another coding", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("a coding after chunked", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n".to_owned()),
        ("two codings", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("an unknown coding", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("a coding with a tab inside", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chun\tked\r\n\r\n0\r\n\r\n".to_owned()),
        ("a coding in HTTP/1.0", "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("a target that is too long", format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n")),
        ("a header that is too long", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n")),
        ("too many headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200))),
    ] {
        let tail = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = say(&shop.orders, format!("{request}{tail}").as_bytes()).await;
        let refused = seen(&answer);
        let expected = match what {
            "a target that is too long" | "a header that is too long" | "too many headers" => [414, 431],
            _ => [400, 400],
        };
        assert!(expected.contains(&refused.status()), "{what}: {refused:?}");
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("smuggled"), "{what}: {text}");
        assert_eq!(text.matches("HTTP/1.").count(), 1, "{what}: {text}");
    }
}

#[tokio::test]
async fn a_broken_chunk_is_never_a_whole_body() {
    let shop = Shop::new().await;
    for (what, body) in [
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("not hexadecimal", "g\r\nabc\r\n0\r\n\r\n"),
        ("a signed size", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a prefixed size", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("data longer than its size", "2\r\nabc\r\n0\r\n\r\n"),
        ("a bare line feed", "3\nabc\n0\n\n"),
        ("a space after the size", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a space before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a bare line feed after the data", "3\r\nabc\n0\r\n\r\n"),
    ] {
        let head = "POST /charge HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n";
        let tail = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = say(&shop.orders, format!("{head}{body}{tail}").as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.starts_with("HTTP/1.1 200 "), "{what}: {text}");
        assert!(!text.contains("/smuggled"), "{what}: {text}");
    }
}

#[tokio::test]
async fn an_upgrade_that_the_app_declines_does_not_open_a_tunnel() {
    let shop = Shop::new().await;
    // The app answers 200, so what follows is the next request, and is decided as such.
    let request = "GET /charges/7 HTTP/1.1\r\nhost: payments\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
                   GET /admin HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n";
    let answer = say(&shop.orders, request.as_bytes()).await;
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.matches("HTTP/1.1 200 ").count(), 1, "{text}");
    assert_eq!(text.matches("HTTP/1.1 403 ").count(), 1, "{text}");
}

#[tokio::test]
async fn http2_is_not_switched_to() {
    let shop = Shop::new().await;
    let request = "GET /charges/7 HTTP/1.1\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
                   http2-settings: AAMAAABkAAQAoAAAAAIAAAAA";
    let told = ask(&shop.orders, request).await;
    assert_eq!(told.status(), 200, "{told:?}");
    let headers = told.json()["headers"].to_string();
    assert!(!headers.contains("upgrade") && !headers.contains("http2-settings"), "{headers}");
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_after_its_time_and_an_idle_connection_after_its_own() {
    let limits = Http {
        header_timeout: std::time::Duration::from_millis(50),
        idle_timeout: std::time::Duration::from_millis(200),
        ..Http::default()
    };
    let shop = Shop::with_orders(|spec| spec.http = limits).await;
    let answer = say(&shop.orders, b"GET /charges/7 HTTP/1.1\r\nhost: pay").await;
    assert_eq!(answer, b"", "cut without an answer");
    let answer = say(&shop.orders, b"GET /charges/7 HTTP/1.1\r\nhost: payments\r\n\r\n").await;
    assert_eq!(seen(&answer).status(), 200, "kept alive, then closed when idle");
}

#[tokio::test]
async fn a_request_of_which_nothing_moves_is_cut_after_its_time() {
    let limits = Http { stream_idle_timeout: std::time::Duration::from_millis(50), ..Http::default() };
    let shop = Shop::with_orders(|spec| spec.http = limits).await;
    let request = b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 10\r\n\r\nhalf";
    let answer = seen(&say(&shop.orders, request).await);
    assert_eq!((answer.status(), &answer.json()["type"]), (504, &"urn:postern:stream_idle_timeout".into()));
}
