//! HTTP as it is spoken: bodies are carried whatever the method, targets and limits get one verdict in both versions and
//! words for it, and answers are held to the framing rules of requests.

use postern_sidecar::config::{HostPort, Http, TellCallers};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::App;
use crate::http2_frames::{DATA, END_HEADERS, END_STREAM, HEADERS, block, connected, frame, literal, next};
use crate::live::Live;
use crate::shop::{Shop, ask, say, seen};

/// An app that answers every request's head with these bytes.
async fn answering(bytes: &[u8]) -> Live {
    let bytes = bytes.to_vec();
    let app = App::serve(move |mut stream: TcpStream| {
        let bytes = bytes.clone();
        async move {
            let mut head = Vec::new();
            loop {
                head.clear();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(&bytes).await?;
            }
        }
    });
    Live::with(app.await).await
}

const ASK: &[u8] =
    b"POST /charge HTTP/1.1\r\nhost: payments\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn an_answer_whose_framing_is_doubtful_is_mended_or_a_502_that_says_so() {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for (fields, body, right) in [
        ("content-length: 3\r\ntransfer-encoding: chunked", chunked, Some("hello")),
        ("content-length: 20\r\ntransfer-encoding: chunked", chunked, Some("hello")),
        ("content-length: 5, 5", "hello", Some("hello")),
        ("content-length : 5", "hello", Some("hello")),
        ("x: a\r\n b\r\ncontent-length: 5", "hello", Some("hello")),
        ("transfer-encoding: gzip, chunked", chunked, None),
        ("transfer-encoding: gzip", "hello", None),
        ("transfer-encoding: chunked, chunked", chunked, None),
        ("content-length: 5, 6", "hello!", None),
    ] {
        let live = answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}").as_bytes()).await;
        let answer = seen(&say(&live.orders, ASK).await);
        match right {
            Some(right) => {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!((answer.status(), text.contains(right)), (200, true), "{fields}: {answer:?}");
                assert!(
                    !answer.head.contains("content-length: 3") && !answer.head.contains("20\r\n"),
                    "{answer:?}"
                );
            }
            None => {
                assert_eq!(answer.status(), 502, "{fields}: {answer:?}");
                let said = answer.json()["detail"].as_str().unwrap_or_default().to_lowercase();
                assert!(said.contains("length") || said.contains("encoding"), "{fields}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn limits_on_answers_are_named_to_the_caller_and_in_the_log() {
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "x".repeat(40_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\nok", "x: y\r\n".repeat(105));
    for (answer, limit) in [(large, "header_bytes_max"), (many, "headers_max")] {
        let live = answering(answer.as_bytes()).await;
        let refused = seen(&say(&live.orders, ASK).await);
        assert_eq!(refused.status(), 502, "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.body).contains(limit), "{refused:?}");
        let shown = live.payments.proxy.refusals.newest().to_string();
        assert!(shown.contains(limit), "{shown}");
    }
    let trailer = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    let live = answering(trailer.as_bytes()).await;
    let _cut = say(&live.orders, ASK).await;
    live.payments.refusal("header_bytes_max").await;
}

#[tokio::test]
async fn limits_on_requests_have_one_border_in_both_versions_and_are_named() {
    let limits = Http { headers_max: 10, header_bytes_max: 2_000, ..Http::default() };
    let shop = Shop::with_orders(|spec| spec.http = limits).await;
    let many = |count| (0..count).map(|at| (format!("x-{at}"), "y".to_owned())).collect::<Vec<_>>();
    let large = vec![("x".to_owned(), "y".repeat(2_000))];
    for (fields, status, limit) in
        [(many(10), 200, ""), (many(11), 431, "headers_max"), (large, 431, "header_bytes_max")]
    {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("GET /charges/7 HTTP/1.1\r\nhost: payments\r\n{lines}\r\n");
        let mut stream = TcpStream::connect(shop.orders.outbound.unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, format!("HTTP/1.1 {status}").as_bytes(), "{limit}");

        let mut stream = connected(&shop.orders).await;
        let block: Vec<u8> = std::iter::once(block("GET", "/charges/7"))
            .chain(fields.iter().map(|(name, value)| literal(name, value)))
            .flatten()
            .collect();
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
        let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
        assert_eq!(told["status"].as_u64().unwrap_or(200), status, "{told}");
        if status != 200 {
            assert!(told["detail"].as_str().unwrap().contains(limit), "{told}");
            assert!(shop.orders.proxy.refusals.newest().to_string().contains(limit));
        }
    }
}

#[tokio::test]
async fn a_target_that_is_no_uri_is_a_400_that_shows_the_character_in_both_versions() {
    let shop = Shop::new().await;
    for (target, part) in [
        (&b"/charges/7?q={\"a\":1}"[..], "'\"'"),
        (b"/charges/7?a<b", "'<'"),
        (b"/charges/caf\xe9", "0xe9"),
        (b"/charges/7#b", "fragment"),
    ] {
        let request = [b"GET ", target, b" HTTP/1.1\r\nhost: payments\r\n\r\n"].concat();
        let refused = seen(&say(&shop.orders, &request).await);
        assert_eq!(refused.status(), 400, "{refused:?}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(part), "{refused:?}");

        let mut stream = connected(&shop.orders).await;
        let path = [&[0, 5][..], b":path", &[u8::try_from(target.len()).unwrap()], target].concat();
        let head: Vec<u8> = [(":method", "GET"), (":scheme", "http"), (":authority", "payments")]
            .iter()
            .flat_map(|(name, value)| literal(name, value))
            .chain(path)
            .collect();
        let good = frame(HEADERS, END_HEADERS | END_STREAM, 3, &block("GET", "/charges/7"));
        let bad = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head);
        stream.write_all(&[bad, good].concat()).await.unwrap();
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
            if told["status"] == 400 {
                assert!(told["detail"].as_str().unwrap().contains(part), "{told}");
            }
            statuses.push(told["status"].as_u64().unwrap_or(200));
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400], "the other request on the connection is served");
    }
}

#[tokio::test]
async fn a_user_in_the_authority_is_refused_in_both_versions() {
    let shop = Shop::new().await;
    let request = b"GET http://u@payments/charges/7 HTTP/1.1\r\nhost: payments\r\n\r\n";
    assert_eq!(seen(&say(&shop.orders, request).await).status(), 400);
    let mut stream = connected(&shop.orders).await;
    let fields =
        [(":method", "GET"), (":scheme", "http"), (":path", "/charges/7"), (":authority", "u@payments")];
    let head: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await.unwrap();
    let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
    assert_eq!(told["status"], 400, "{told}");
}

#[tokio::test]
async fn a_body_is_carried_whatever_the_method_and_what_has_none_gets_no_coding() {
    let shop = Shop::with(|spec| spec.policy = Some(crate::hostile::ANYTHING)).await;
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        let request = format!(
            "{method} /x HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n"
        );
        let told = seen(&say(&shop.orders, request.as_bytes()).await);
        assert_eq!((told.status(), &told.json()["body_bytes"]), (200, &5.into()), "{method}: {told:?}");
        for (body, bytes) in [(&b"hello"[..], 5), (b"", 0)] {
            let mut stream = connected(&shop.orders).await;
            let head = frame(HEADERS, END_HEADERS, 1, &block(method, "/x"));
            stream.write_all(&[head, frame(DATA, END_STREAM, 1, body)].concat()).await.unwrap();
            let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
            assert_eq!(told["body_bytes"], bytes, "{method}: {told}");
            let coded = told["headers"].to_string().contains("transfer-encoding");
            assert_eq!(coded, bytes > 0, "{method}: {told}");
        }
    }
}

#[tokio::test]
async fn http_1_0_needs_no_host_and_knows_no_upgrade_and_http_1_1_needs_one() {
    let shop = Shop::new().await;
    let told = seen(&say(&shop.orders, b"GET /charges/7 HTTP/1.0\r\n\r\n").await);
    assert_eq!(told.status(), 200, "{told:?}");
    assert!(told.json()["headers"].to_string().contains(r#"["host","payments"]"#), "{told:?}");
    let upgrade = b"GET /charges/7 HTTP/1.0\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let told = seen(&say(&shop.orders, upgrade).await);
    assert_eq!(told.status(), 200, "{told:?}");
    assert!(!told.json()["headers"].to_string().contains("upgrade"), "{told:?}");
    for request in ["GET /charges/7 HTTP/1.1\r\n\r\n", "GET http://payments/charges/7 HTTP/1.1\r\n\r\n"] {
        assert_eq!(seen(&say(&shop.orders, request.as_bytes()).await).status(), 400, "{request}");
    }
}

#[tokio::test]
async fn a_bare_line_feed_in_trailers_is_a_400() {
    let shop = Shop::new().await;
    let request = b"POST /charge HTTP/1.1\r\nhost: payments\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\n\
                    GET /charges/7 HTTP/1.1\r\nhost: payments\r\n\r\n";
    let answer = say(&shop.orders, request).await;
    assert_eq!(seen(&answer).status(), 400);
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count(), 1);
}

/// Pieces of a body that nobody takes yet come out whole, in their order, when somebody does.
#[tokio::test]
async fn a_body_in_many_small_pieces_arrives_whole() {
    let shop = Shop::new().await;
    let mut stream = connected(&shop.orders).await;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block("POST", "/charge"))).await.unwrap();
    for _ in 0..5_000 {
        let piece = [frame(DATA, 0, 1, b"piece"), frame(0xfa, 0, 0, &[0; 100])].concat();
        stream.write_all(&piece).await.unwrap();
    }
    stream.write_all(&frame(DATA, END_STREAM, 1, b"")).await.unwrap();
    let told: Value = serde_json::from_slice(&next(&mut stream, DATA).await.unwrap()).unwrap();
    assert_eq!(told["body_bytes"], 25_000);
}

#[tokio::test]
async fn a_caller_that_is_told_nothing_is_not_told_where_the_app_is() {
    let nowhere = HostPort { host: "127.0.0.1".to_owned(), port: 1 };
    let shop = Shop::with(|spec| (spec.tell_callers, spec.app) = (TellCallers::Nothing, Some(nowhere))).await;
    let failed = ask(&shop.orders, "GET /charges/7 HTTP/1.1").await;
    assert_eq!(failed.status(), 503, "{failed:?}");
    assert!(!String::from_utf8_lossy(&failed.body).contains("127.0.0.1:1"), "{failed:?}");
}
