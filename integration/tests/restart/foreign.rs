//! Whoever says something else at the restart socket than a new process does, at whichever point, changes nothing.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use postern_integration::shop::Shop;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::fixture::{goes_on, load, none_failed, shop};

const HELLO: &str = r#"{"hello":{"oldest":1,"newest":1}}"#;
const READY: &str = r#""ready""#;

/// One who speaks as a new process would, word by word.
struct Knocking(Socket);

impl Knocking {
    fn at(path: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(socket)
    }

    fn say(&self, text: &str) {
        assert_eq!((&self.0).write(text.as_bytes()).unwrap(), text.len());
    }

    /// The next message; empty at the end. Sockets that come with it are dropped.
    fn hear(&self) -> String {
        let mut bytes = vec![0; 8192];
        let length = loop {
            match (&self.0).read(&mut bytes) {
                // A child of this test has ended.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read.unwrap(),
            }
        };
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// Says hello, and hears all that is offered.
    fn offered(&self) -> Vec<String> {
        self.say(HELLO);
        let mut heard = vec![self.hear()];
        assert!(heard[0].contains(r#""offer":{"version":1,"listeners":2}"#), "{heard:?}");
        heard.extend([self.hear(), self.hear()]);
        heard
    }
}

/// A real new process succeeds after all that, while nobody notices anything.
async fn nothing_changed(mut shop: Shop, load: postern_integration::load::Load) {
    goes_on(&load).await;
    let mut old = shop.payments.succeed().await;
    assert_eq!(old.exit().await.code(), Some(0), "{}", old.output());
    none_failed(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_or_out_of_turn_is_answered_with_the_reason() {
    let shop = shop().await;
    let load = load(&shop).await;
    let socket = shop.payments.restart_socket();
    let long = "x".repeat(100_000);
    for (said, reason) in [
        ("GET / HTTP/1.1\r\n\r\n", "18 bytes are no message of a restart"),
        (long.as_str(), "more than the 4096 bytes"),
        ("\0\u{1b}[2J", "no message"),
        (READY, "expected hello, the other process said ready"),
        (r#"{"hello":{"oldest":7,"newest":9}}"#, "versions 7 to 9 are asked for, 1 to 1 are spoken here"),
        (r#"{"refuse":{"reason":"a\nlevel=ERROR"}}"#, r"refused: a\\nlevel=ERROR"),
    ] {
        let knocking = Knocking::at(&socket);
        knocking.say(said);
        let heard = knocking.hear();
        assert!(heard.starts_with(r#"{"refuse":"#) && heard.contains(reason), "{heard}");
        assert_eq!(knocking.hear(), "", "and then it ends");
    }
    nothing_changed(shop, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_dies_at_any_point_leaves_everything_to_the_old_process() {
    let shop = shop().await;
    let load = load(&shop).await;
    let socket = shop.payments.restart_socket();
    let going_on = || shop.payments.program.lines_with(&["not taken over; going on"]);
    for point in 0..5 {
        let before = going_on();
        let knocking = Knocking::at(&socket);
        if point > 0 {
            knocking.say(HELLO);
        }
        if point > 1 {
            // What was said before is taken: three messages.
            (0..3).for_each(|_| drop(knocking.hear()));
        }
        if point > 2 {
            knocking.say(READY);
        }
        if point > 3 {
            assert_eq!(knocking.hear(), r#""yours""#);
        }
        drop(knocking);
        postern_integration::eventually("it goes on", async || (going_on() > before).then_some(())).await;
        goes_on(&load).await;
    }
    nothing_changed(shop, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_are_silent_hold_up_nobody_and_are_told_so() {
    let shop = shop().await;
    let load = load(&shop).await;
    let silent: Vec<_> = (0..3).map(|_| Knocking::at(&shop.payments.restart_socket())).collect();
    let old = shop.payments.program.pid();
    nothing_changed(shop, load).await;
    // The old process ended meanwhile, and they with it.
    for knocking in silent {
        assert_eq!(knocking.hear(), "", "{old}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_silent_ones_than_are_talked_to_go_within_their_time() {
    let shop = shop().await;
    let load = load(&shop).await;
    let silent: Vec<_> = (0..8).map(|_| Knocking::at(&shop.payments.restart_socket())).collect();
    let late = Knocking::at(&shop.payments.restart_socket());
    late.say(HELLO);
    assert!(silent[0].hear().contains("said nothing for 5s"));
    assert!(late.hear().contains("offer"));
    drop(late);
    nothing_changed(shop, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_is_names_addresses_and_sockets_and_nothing_secret() {
    let shop = shop().await;
    let knocking = Knocking::at(&shop.payments.restart_socket());
    let offered = knocking.offered();
    let (admin, inbound) = (shop.payments.admin, shop.payments_inbound());
    assert_eq!(offered[1], format!(r#"{{"listener":{{"kind":"admin","name":"","address":"{admin}"}}}}"#));
    assert_eq!(
        offered[2],
        format!(r#"{{"listener":{{"kind":"inbound","name":"api","address":"{inbound}"}}}}"#)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_socket_is_not_let_in() {
    let shop = shop().await;
    assert!(std::os::unix::net::UnixStream::connect(shop.payments.restart_socket()).is_err());
}

/// The other way round: what listens at the restart socket is no old process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_process_that_talks_nonsense_is_not_believed() {
    let mut shop = shop().await;
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    listener.bind(&SockAddr::unix(shop.payments.restart_socket()).unwrap()).unwrap();
    listener.listen(1).unwrap();
    for (answer, reason) in [
        (r#"{"offer":{"version":9,"listeners":1}}"#, "speaks version 9, this one 1 to 1"),
        (r#"{"offer":{"version":1,"listeners":100000}}"#, "100000 listeners"),
        ("nonsense", "8 bytes are no message of a restart"),
        (r#"{"refuse":{"reason":"too\ntired"}}"#, r"refused: too\ntired"),
        (READY, "expected offer, the other process said ready"),
    ] {
        let mut new = shop.payments.another();
        let (asking, _) = listener.accept().unwrap();
        let asking = Knocking(asking);
        assert_eq!(asking.hear(), HELLO);
        asking.say(answer);
        new.line_with(&[reason]).await;
        assert_eq!(new.exit().await.code(), Some(1), "{}", new.output());
    }
    let mut new = shop.payments.another();
    let (asking, _) = listener.accept().unwrap();
    let asking = Knocking(asking);
    asking.hear();
    asking.say(r#"{"offer":{"version":1,"listeners":1}}"#);
    asking.say(r#"{"listener":{"kind":"admin","name":"","address":"127.0.0.1:1"}}"#);
    new.line_with(&["not to be used", "expected a socket with the message, found 0"]).await;
    assert_eq!(new.exit().await.code(), Some(1));
}
