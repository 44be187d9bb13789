//! A change of policy or trust acts at once on live HTTP: what is no longer allowed is cut, as an error and never as
//! a clean end, and nothing else is.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{App, echoed, expect_reset};
use crate::live::{ALL, Http2, Live, Switch, asked, policy, switched};
use crate::sidecar::eventually;

const REFUND: &str = r#""POST /refund""#;

#[tokio::test]
async fn an_idle_keep_alive_is_cut_when_its_peer_may_do_nothing_any_more() {
    let live = Live::new().await;
    let mut orders = live.direct("orders", b"http/1.1").await;
    let mut reports = live.direct("reports", b"http/1.1").await;
    for stream in [&mut orders, &mut reports] {
        assert_eq!(asked(stream, "POST /charge").await.unwrap(), 200);
    }
    live.payments.apply(&policy(None, Some(ALL)));
    let end = orders.read(&mut [0; 1]).await;
    assert!(end.is_err(), "cut, without close_notify: {end:?}");
    assert_eq!(asked(&mut reports, "POST /charge").await.unwrap(), 200, "the other stays");
}

#[tokio::test]
async fn an_idle_keep_alive_stays_while_anything_is_allowed_and_its_next_request_is_decided_anew() {
    let live = Live::new().await;
    let mut orders = live.direct("orders", b"http/1.1").await;
    assert_eq!(asked(&mut orders, "POST /charge").await.unwrap(), 200);
    live.payments.apply(&policy(Some(REFUND), None));
    assert_eq!(asked(&mut orders, "POST /charge").await.unwrap(), 403);
    assert_eq!(asked(&mut orders, "POST /refund").await.unwrap(), 200);
    live.payments.apply(&policy(Some(ALL), None));
    assert_eq!(asked(&mut orders, "POST /charge").await.unwrap(), 200);
}

#[tokio::test]
async fn connections_kept_between_two_sidecars_are_cut_too() {
    let live = Live::new().await;
    let mut app = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
    assert_eq!(asked(&mut app, "POST /charge").await.unwrap(), 200);
    assert_eq!((live.orders.live(), live.payments.live()), (1, 1));
    live.payments.apply(&policy(None, Some(ALL)));
    eventually("both ends gone", || (live.orders.live() + live.payments.live() == 0).then_some(())).await;
    assert_eq!(asked(&mut app, "POST /charge").await.unwrap(), 403, "the app's own connection is asked anew");
    live.payments.apply(&policy(Some(ALL), Some(ALL)));
    assert_eq!(asked(&mut app, "POST /charge").await.unwrap(), 200);
}

#[tokio::test]
async fn of_two_streams_on_one_connection_the_one_that_is_withdrawn_is_reset_and_the_other_goes_on() {
    let live = Live::new().await;
    for connection in
        [Http2::over(live.direct("orders", b"h2").await).await, Http2::through(&live.orders).await]
    {
        live.payments.apply(&policy(Some(ALL), Some(ALL)));
        let (mut charge, mut refund) = (connection.open("/charge").await, connection.open("/refund").await);
        let mut other = Http2::through(&live.reports).await.open("/charge").await;
        live.payments.apply(&policy(Some(REFUND), Some(ALL)));
        charge.expect_reset().await;
        refund.echoed().await.unwrap();
        other.echoed().await.unwrap();
        let (status, _) = connection.post("/charge").await.unwrap();
        assert_eq!(status, 403, "the next one on the same connection is decided anew");
        live.payments.apply(&policy(None, Some(ALL)));
        refund.expect_reset().await;
        other.echoed().await.unwrap();
    }
}

#[tokio::test]
async fn a_grpc_stream_is_reset_and_its_neighbours_go_on() {
    let live = Live::new().await;
    let connection = Http2::through(&live.orders).await;
    let (mut chat, mut refund) =
        (connection.open("/shop.Charges/Chat").await, connection.open("/refund").await);
    live.payments.apply(&policy(Some(REFUND), None));
    chat.expect_reset().await;
    refund.echoed().await.unwrap();
}

#[tokio::test]
async fn what_has_switched_is_reset_at_the_caller_and_others_go_on() {
    for switch in Switch::BOTH {
        let live = Live::new().await;
        let mut orders = switched(live.orders.outbound.unwrap(), switch).await;
        let mut reports = switched(live.reports.outbound.unwrap(), switch).await;
        live.payments.apply(&policy(Some(REFUND), Some(ALL)));
        expect_reset(&mut orders).await;
        echoed(&mut reports).await.unwrap();
        live.payments.apply(&policy(None, None));
        expect_reset(&mut reports).await;
    }
}

#[tokio::test]
async fn an_http_1_response_that_is_cut_ends_with_a_reset_whatever_its_framing() {
    let live = Live::new().await;
    for version in ["1.0", "1.1"] {
        live.payments.apply(&policy(Some(ALL), None));
        let mut stream = TcpStream::connect(live.orders.outbound.unwrap()).await.unwrap();
        // Of HTTP/1.0 a response may last until the connection ends: a clean end would be taken for its end.
        let head =
            format!("POST /charge HTTP/{version}\r\nhost: payments\r\ncontent-length: 1000\r\n\r\nword");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|window| window == b"word") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        live.payments.apply(&policy(Some(REFUND), None));
        expect_reset(&mut stream).await;
    }
}

/// Answers without an end.
async fn endless() -> App {
    App::serve(async |mut stream: TcpStream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await?;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'x'; 16 * 1024]).await?;
        }
    })
    .await
}

#[tokio::test]
async fn a_stream_whose_caller_takes_nothing_is_reset_all_the_same() {
    let live = Live::with_http1(endless().await).await;
    let (mut send, connection) = h2::client::handshake(live.direct("orders", b"h2").await).await.unwrap();
    let asked = async {
        let request = http::Request::get("http://payments/socket").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        // No room is given back: the stream's window is used up.
        let mut heard = 0;
        while heard < 65_535 {
            heard += body.data().await.unwrap().unwrap().len();
        }
        live.payments.apply(&policy(Some(REFUND), None));
        let reset = body.data().await.unwrap().unwrap_err();
        assert!(reset.is_reset(), "{reset}");
    };
    tokio::select! {
        biased;
        () = asked => {}
        ended = connection => panic!("{ended:?}"),
    }
}
