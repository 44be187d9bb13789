//! Bytes arrive as they were sent, and an end arrives as what it was.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{App, echoed, expect_reset, reset};
use crate::authority::Authority;
use crate::sidecar::{Sidecar, Spec, eventually};

/// `orders` and `payments` with a sidecar each, and an app behind `payments`.
struct Pair {
    orders: Sidecar,
    payments: Sidecar,
    _app: App,
}

impl Pair {
    fn new(app: App) -> Self {
        let authority = Authority::new();
        let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
        let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
        Self { orders, payments, _app: app }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.orders.outbound.unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn a_word_goes_there_and_back() {
    let pair = Pair::new(App::echo().await);
    let mut stream = pair.connect().await;
    echoed(&mut stream).await.unwrap();
    assert_eq!((pair.orders.live(), pair.payments.live()), (1, 1));
}

#[tokio::test]
async fn the_next_connection_rides_the_tunnel_of_the_last_and_people_can_see_it() {
    let pair = Pair::new(App::echo().await);
    let proxy = &pair.orders.proxy;
    let pool = || proxy.connections()["pools"][0].clone();
    for round in 1..=3_u64 {
        let mut stream = pair.connect().await;
        echoed(&mut stream).await.unwrap();
        assert_eq!(pool()["idle"], 0, "it is in use");
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        eventually("the tunnel waits", || (pool()["tunnels"][0]["leases"] == round).then_some(())).await;
        assert_eq!(pair.orders.live(), 0, "an idle tunnel is no connection");
    }
    let shown = pool();
    assert_eq!((&shown["service"], &shown["idle"]), (&"payments".into(), &1.into()));
    assert_eq!(shown["tunnels"][0]["peer"], "spiffe://shop.example/payments");
    let metrics = proxy.control.metrics.text().unwrap();
    for sample in ["tunnel_leases_total{tunnel=\"new\"} 1", "tunnel_leases_total{tunnel=\"kept\"} 2"] {
        assert!(metrics.contains(sample), "{sample} in {metrics}");
    }
}

#[tokio::test]
async fn the_client_may_end_first_and_still_read() {
    let app = App::serve(async |mut stream: TcpStream| {
        let mut request = String::new();
        stream.read_to_string(&mut request).await?;
        stream.write_all(format!("{request}, after its end").as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
    let pair = Pair::new(app);
    let mut stream = pair.connect().await;
    stream.write_all(b"all").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "all, after its end");
}

#[tokio::test]
async fn the_server_may_speak_first_and_end_first_and_still_read() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let app = App::serve(move |mut stream: TcpStream| {
        let heard = heard.clone();
        async move {
            stream.write_all(b"220 ready").await?;
            stream.shutdown().await?;
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await?;
            heard.send(rest).await.map_err(std::io::Error::other)
        }
    })
    .await;
    let pair = Pair::new(app);
    let mut stream = pair.connect().await;
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).await.unwrap();
    assert_eq!(greeting, "220 ready");
    stream.write_all(b"QUIT").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), "QUIT");
}

#[tokio::test]
async fn a_reset_by_the_server_is_a_reset_for_the_client() {
    let app = App::serve(async |mut stream: TcpStream| {
        stream.read_u8().await?;
        reset(stream);
        Ok(())
    })
    .await;
    let pair = Pair::new(app);
    let mut stream = pair.connect().await;
    stream.write_all(b"x").await.unwrap();
    expect_reset(&mut stream).await;
}

#[tokio::test]
async fn a_reset_by_the_client_is_a_reset_for_the_server() {
    let (ended, mut ends) = tokio::sync::mpsc::channel(1);
    let app = App::serve(move |mut stream: TcpStream| {
        let ended = ended.clone();
        async move {
            stream.read_u8().await?;
            stream.write_all(b"y").await?;
            let end = stream.read_to_end(&mut Vec::new()).await;
            ended.send(end).await.map_err(std::io::Error::other)
        }
    })
    .await;
    let pair = Pair::new(app);
    let mut stream = pair.connect().await;
    stream.write_all(b"x").await.unwrap();
    stream.read_u8().await.unwrap();
    reset(stream);
    let error = ends.recv().await.unwrap().expect_err("a reset, never a clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bytes_arrive_whole_also_through_a_slow_reader() {
    const BYTES: usize = 8 * 1024 * 1024;
    let pair = Pair::new(App::echo().await);
    let stream = pair.connect().await;
    let (mut read, mut write) = stream.into_split();
    let sent: Vec<u8> =
        (0..BYTES as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::with_capacity(BYTES);
    let mut piece = vec![0; 3_001];
    loop {
        // Slow: everything else runs between two small reads.
        tokio::task::yield_now().await;
        match read.read(&mut piece).await.unwrap() {
            0 => break,
            read => got.extend_from_slice(&piece[..read]),
        }
    }
    writer.await.unwrap();
    assert!(got == expected, "{} of {BYTES} bytes, or others", got.len());
}
