//! Peers with a valid certificate that break the rules of docs/WIRE.md: the tunnel breaks, the app is reset, and
//! nobody else notices.

use std::io;
use std::sync::Arc;

use postern_sidecar::proxy::tunnel::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::apps::{App, echoed, expect_refused};
use crate::authority::Authority;
use crate::sidecar::Spec;
use crate::stranger::{self, Caller, auth, data, encoded, open, reset};

/// What nobody may send, whatever has been sent before.
fn never() -> Vec<(&'static str, Vec<u8>)> {
    let head = |kind: u8, length: u32| [&[kind], &length.to_be_bytes()[1..]].concat();
    vec![
        ("a frame of kind 0", head(0, 0)),
        ("a frame of kind 8", head(8, 0)),
        ("a frame of kind 255", head(255, 1 << 20)),
        ("OPEN of more than 1,024 bytes", head(1, 1025)),
        ("ACCEPT with a body", head(2, 1)),
        ("REFUSE of more than 8,192 bytes", head(3, 8193)),
        ("DATA without bytes", head(4, 0)),
        ("DATA of more than 65,536 bytes", head(4, 65_537)),
        ("FIN with a body", head(5, 1)),
        ("RESET without a number", head(6, 3)),
        ("RESET of more than 8,196 bytes", head(6, 8197)),
        ("AUTH without a kind", head(7, 0)),
        ("AUTH of more than 66,741 bytes", head(7, 66_742)),
        ("AUTH of kind 3", auth(3, &[])),
        ("NEWS with a body", auth(0, b"x")),
        ("a REQUEST that is none", auth(1, b"request")),
        ("a REQUEST of the other side's type", auth(1, &[0; 60])),
        ("a PROOF that nobody asked for", auth(2, b"proof")),
        ("a RESET of a later lease", reset(7)),
    ]
}

fn reason(name: &str) -> &'static str {
    let of_auth = ["AUTH of kind", "NEWS", "a REQUEST", "a PROOF"];
    let is_auth = of_auth.iter().any(|begin| name.starts_with(begin));
    if is_auth { "reauthentication_failed" } else { "tunnel_violation" }
}

/// What a caller may not send first.
fn first_of_caller() -> Vec<(&'static str, Vec<u8>)> {
    let unknown_field = [&[1, 0, 0, 3][..], &[3, 0, 0]].concat();
    let fin = || encoded(&Frame::Fin);
    vec![
        ("ACCEPT", encoded(&Frame::Accept)),
        ("REFUSE", encoded(&Frame::Refuse(Vec::new()))),
        ("DATA outside of a lease", data(b"x")),
        ("FIN outside of a lease", fin()),
        ("OPEN with an unknown field", unknown_field),
        ("OPEN twice", [open(), open()].concat()),
        ("DATA after FIN", [open(), fin(), data(b"x")].concat()),
        ("FIN twice", [open(), fin(), fin()].concat()),
        ("DATA after RESET", [open(), reset(1), data(b"x")].concat()),
        ("ACCEPT in a lease", [open(), encoded(&Frame::Accept)].concat()),
    ]
}

#[tokio::test]
async fn whatever_a_caller_must_not_say_breaks_its_tunnel_and_no_other() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let to = payments.inbound.unwrap();
    let orders = Spec::new(&authority, "orders").to(&[to]).start(&authority);
    let mut neighbour = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut neighbour).await.unwrap();
    for (name, bytes) in first_of_caller().into_iter().chain(never()) {
        println!("{name}");
        let mut caller = Caller::connect(&authority, "orders", to).await;
        caller.send(&bytes).await.unwrap();
        caller.expect_broken().await;
        payments.refusal(reason(name)).await;
        echoed(&mut neighbour).await.unwrap();
    }
}

#[tokio::test]
async fn whatever_a_caller_must_not_say_in_a_lease_is_a_reset_for_the_app() {
    let (ended, mut ends) = mpsc::channel::<io::Result<u64>>(1);
    let app = App::serve(move |mut stream: TcpStream| {
        let ended = ended.clone();
        async move {
            let (mut read, mut write) = stream.split();
            ended.send(tokio::io::copy(&mut read, &mut write).await).await.unwrap();
            Ok(())
        }
    })
    .await;
    let authority = Authority::new();
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    for (name, bytes) in never() {
        println!("{name}");
        let mut caller = Caller::connect(&authority, "orders", payments.inbound.unwrap()).await;
        caller.lease().await;
        caller.send(&bytes).await.unwrap();
        caller.expect_broken().await;
        let end = ends.recv().await.unwrap();
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{name}");
    }
}

/// A called side that reads OPEN and the word, says `bytes`, and waits.
async fn called(authority: Arc<Authority>, bytes: Vec<u8>) -> App {
    App::serve(move |tcp| {
        let (authority, bytes) = (authority.clone(), bytes.clone());
        async move {
            let mut tls = stranger::answer(&authority, "payments", tcp).await?;
            tls.read_exact(&mut [0; 12]).await?;
            tls.write_all(&bytes).await?;
            tls.flush().await?;
            tls.read_to_end(&mut Vec::new()).await.map(|_| ())
        }
    })
    .await
}

/// What a called side may not answer.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let accept = || encoded(&Frame::Accept);
    let fin = || encoded(&Frame::Fin);
    vec![
        ("OPEN", open()),
        ("DATA before ACCEPT", data(b"x")),
        ("FIN before ACCEPT", fin()),
        ("ACCEPT twice", [accept(), accept()].concat()),
        ("REFUSE after ACCEPT", [accept(), encoded(&Frame::Refuse(Vec::new()))].concat()),
        ("DATA after FIN", [accept(), fin(), data(b"x")].concat()),
        ("FIN twice", [accept(), fin(), fin()].concat()),
        ("OPEN after ACCEPT", [accept(), open()].concat()),
    ]
}

#[tokio::test]
async fn whatever_a_called_side_must_not_say_is_a_reset_for_the_calling_app() {
    let authority = Arc::new(Authority::new());
    let accepted = never().into_iter().map(|(name, bytes)| (name, [encoded(&Frame::Accept), bytes].concat()));
    for (name, bytes) in answers().into_iter().chain(never()).chain(accepted) {
        println!("{name}");
        let called = called(authority.clone(), bytes).await;
        let orders = Spec::new(&authority, "orders").to(&[called.address]).start(&authority);
        expect_refused(orders.outbound.unwrap()).await;
        orders.refusal(reason(name)).await;
    }
}
