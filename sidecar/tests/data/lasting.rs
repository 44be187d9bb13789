//! How long a connection lasts: idle, half closed, too old. Each is cut with its reason, and no other is.

use std::sync::Arc;

use postern_sidecar::config::{AccessLogConfig, AccessLogTarget, Limits, MaxAge};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::apps::{App, echoed, expect_reset};
use crate::authority::Authority;
use crate::clock::SetClock;
use crate::sidecar::{Sidecar, Spec, eventually};
use crate::stranger;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

struct Shop {
    authority: Authority,
    payments: Sidecar,
    clock: Arc<SetClock>,
    log: tempfile::TempDir,
    _app: App,
}

impl Shop {
    async fn new(limits: Limits) -> Self {
        let (authority, app, log) = (Authority::new(), App::echo().await, tempfile::tempdir().unwrap());
        let clock = Arc::<SetClock>::default();
        let mut spec = Spec::new(&authority, "payments").app(app.address);
        (spec.limits, spec.clock) = (limits, clock.clone());
        let to = AccessLogTarget::File(log.path().join("log"));
        spec.access_log = Some(AccessLogConfig { to, lines_waiting_max: 100 });
        Self { payments: spec.start(&authority), authority, clock, log, _app: app }
    }

    fn orders(&self) -> Sidecar {
        Spec::new(&self.authority, "orders").to(&[self.payments.inbound.unwrap()]).start(&self.authority)
    }

    async fn stranger(&self, lifetime: Duration) -> TlsStream<TcpStream> {
        let to = self.payments.inbound.unwrap();
        let mut tls = stranger::connect(&self.authority, "orders", lifetime, to).await;
        said(&mut tls).await.unwrap();
        tls
    }

    /// Looks at the times of `payments`, as it does itself, when so much time has passed.
    async fn look_after(&self, passed: std::time::Duration) {
        let proxy = &self.payments.proxy;
        proxy
            .register
            .end_outlived(&proxy.control.config.limits, proxy.control.clock.now(), Instant::now() + passed)
            .await;
    }

    /// The reason is in the metrics and, once the connection has ended, in the access log.
    async fn tells(&self, reason: &str) {
        let text = self.payments.proxy.control.metrics.text().unwrap();
        assert!(
            text.contains(&format!("postern_connections_terminated_total{{reason=\"{reason}\"}} 1")),
            "{text}"
        );
        let line = eventually("it is in the access log", || {
            let text = std::fs::read_to_string(self.log.path().join("log")).unwrap_or_default();
            let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.find(|line| line["reason"] == reason)
        })
        .await;
        assert!(line["detail"].is_string(), "{line}");
    }
}

async fn said(tls: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    tls.write_all(b"word").await?;
    tls.read_exact(&mut [0; 4]).await.map(|_| ())
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_cut_and_one_that_moved_is_not() {
    let shop = Shop::new(Limits::default()).await;
    let idle = shop.payments.proxy.control.config.limits.idle_timeout;
    let orders = shop.orders();
    let mut quiet = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut quiet).await.unwrap();
    let mut busy = shop.stranger(Duration::hours(1)).await;
    shop.look_after(std::time::Duration::ZERO).await;
    shop.look_after(idle - SECOND).await;
    echoed(&mut quiet).await.unwrap();
    shop.look_after(std::time::Duration::ZERO).await;
    said(&mut busy).await.unwrap();
    shop.look_after(idle + SECOND).await;
    expect_reset(&mut quiet).await;
    said(&mut busy).await.unwrap();
    shop.tells("idle_timeout").await;
}

#[tokio::test]
async fn the_sidecar_looks_by_itself() {
    let short = std::time::Duration::from_millis(200);
    let shop = Shop::new(Limits { idle_timeout: short, ..Limits::default() }).await;
    let orders = shop.orders();
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    expect_reset(&mut stream).await;
    shop.tells("idle_timeout").await;
}

#[tokio::test]
async fn a_tunnel_between_two_connections_is_not_idle() {
    let shop = Shop::new(Limits::default()).await;
    let orders = shop.orders();
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    let live = |sidecar: &Sidecar| sidecar.proxy.control.metrics.connections().1;
    eventually("it rests", || (live(&shop.payments) == 0).then_some(())).await;
    shop.look_after(std::time::Duration::ZERO).await;
    shop.look_after(shop.payments.proxy.control.config.limits.idle_timeout * 2).await;
    assert_eq!(shop.payments.live(), 1);
    let mut next = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut next).await.unwrap();
    assert_eq!(shop.payments.live(), 1, "by the same tunnel");
}

#[tokio::test]
async fn a_connection_that_is_half_closed_and_silent_is_cut_long_before_one_that_is_whole() {
    let app = App::serve(async |mut stream: TcpStream| {
        stream.write_all(b"x").await?;
        stream.read_to_end(&mut Vec::new()).await?;
        std::future::pending().await
    })
    .await;
    let authority = Authority::new();
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    let connect = async || {
        let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream
    };
    let (mut whole, mut half) = (connect().await, connect().await);
    half.shutdown().await.unwrap();
    let half_closed = || {
        let shown = payments.proxy.register.shown();
        shown["connections"].as_array().unwrap().iter().filter(|one| one["half_closed"] == true).count()
    };
    eventually("the end has come", || (half_closed() == 1).then_some(())).await;
    let proxy = &payments.proxy;
    let (limits, wall) = (&proxy.control.config.limits, OffsetDateTime::now_utc());
    let now = Instant::now();
    proxy.register.end_outlived(limits, wall, now).await;
    proxy.register.end_outlived(limits, wall, now + limits.half_closed_timeout - SECOND).await;
    assert_eq!(payments.live(), 2);
    proxy.register.end_outlived(limits, wall, now + limits.half_closed_timeout + SECOND).await;
    expect_reset(&mut half).await;
    assert!(
        proxy.control.metrics.text().unwrap().contains("_terminated_total{reason=\"half_closed_timeout\"} 1")
    );
    let unread = whole.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(unread.kind(), std::io::ErrorKind::WouldBlock, "still open");
    assert_eq!(whole.write(b"y").await.unwrap(), 1);
}

#[tokio::test]
async fn a_direct_connection_is_cut_at_its_age_and_a_tunnel_is_not() {
    let age = std::time::Duration::from_secs(60);
    let limits = Limits { max_connection_age: MaxAge::After(age), ..Limits::default() };
    let shop = Shop::new(limits).await;
    let orders = shop.orders();
    let mut tunnel = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut tunnel).await.unwrap();
    let mut direct = shop.stranger(Duration::hours(1)).await;
    shop.look_after(age - SECOND).await;
    said(&mut direct).await.unwrap();
    shop.look_after(age + SECOND).await;
    direct.read(&mut [0; 1]).await.unwrap_err();
    echoed(&mut tunnel).await.unwrap();
    shop.tells("max_connection_age").await;
}

#[tokio::test]
async fn a_direct_connection_may_end_with_the_first_of_both_certificates() {
    for (lifetime, passed) in
        [(Duration::minutes(10), Duration::minutes(10)), (Duration::hours(2), Duration::hours(1))]
    {
        let shop = Shop::new(Limits { max_connection_age: MaxAge::Svid, ..Limits::default() }).await;
        let mut direct = shop.stranger(lifetime).await;
        shop.clock.set_wrong_by(passed - Duration::seconds(5));
        shop.look_after(std::time::Duration::ZERO).await;
        said(&mut direct).await.unwrap();
        shop.clock.set_wrong_by(passed + Duration::seconds(2));
        shop.look_after(std::time::Duration::ZERO).await;
        direct.read(&mut [0; 1]).await.unwrap_err();
        shop.tells("max_connection_age").await;
    }
}

#[tokio::test]
async fn a_direct_connection_may_outlive_its_certificates_where_nothing_else_is_configured() {
    let shop = Shop::new(Limits::default()).await;
    let mut direct = shop.stranger(Duration::minutes(10)).await;
    shop.clock.set_wrong_by(Duration::hours(2));
    shop.look_after(std::time::Duration::from_secs(2 * 60 * 60)).await;
    said(&mut direct).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_jumps_makes_nothing_idle() {
    let shop = Shop::new(Limits::default()).await;
    let mut direct = shop.stranger(Duration::hours(1)).await;
    for days in [3, -3] {
        shop.clock.set_wrong_by(Duration::days(days));
        shop.look_after(std::time::Duration::ZERO).await;
        said(&mut direct).await.unwrap();
    }
}
