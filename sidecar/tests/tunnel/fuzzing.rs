//! Mutated sessions: against the frame codec, and over real TLS against a whole sidecar at either side.
//!
//! `POSTERN_FUZZ_CASES` and `POSTERN_FUZZ_SEED` choose how many cases are run, and from which on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_sidecar::proxy::tunnel::{Decoder, Event, Frame, FrameError, Open};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{App, echoed, reset as reset_tcp};
use crate::authority::Authority;
use crate::mutation::{Dice, pieces, session};
use crate::sidecar::{Sidecar, Spec, eventually};
use crate::stranger::{self, Caller, auth, data, encoded, open, reset};

/// Where nobody says more. A case of the codec costs a thousandth of one over TLS.
const CASES: u64 = 150;
const CODEC_CASES: u64 = 20_000;
/// What a case leaves behind, after the first ones have warmed everything up.
const GROWTH_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// A case that lasts longer hangs: whoever sends nothing more has ended by then.
const PATIENCE: Duration = Duration::from_secs(20);
/// An answer is waited for so long, because a session may well have none.
const LISTENS: Duration = Duration::from_millis(5);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn seeds(cases: u64) -> std::ops::Range<u64> {
    let first = number("POSTERN_FUZZ_SEED", 1);
    first..first + cases
}

fn frames_of_caller() -> Vec<Vec<u8>> {
    let port = |port: &str| encoded(&Frame::Open(Open { port: Some(port.to_owned()), trace: None }));
    let fin = encoded(&Frame::Fin);
    let leases = [open(), data(b"some words"), fin.clone()].concat();
    vec![
        open(),
        port("api"),
        port("other"),
        fin,
        leases,
        data(&[7; 3000]),
        data(b"x"),
        reset(1),
        reset(2),
        reset(0),
        auth(0, &[]),
        auth(1, &[13; 60]),
        auth(2, &[11; 300]),
        encoded(&Frame::Accept),
        encoded(&Frame::Refuse(b"{}".to_vec())),
    ]
}

fn frames_of_called() -> Vec<Vec<u8>> {
    let refusal = br#"{"type":"urn:postern:denied","title":"Not allowed","status":403,"detail":"no"}"#;
    let fin = encoded(&Frame::Fin);
    let lease = [encoded(&Frame::Accept), data(b"some words"), fin.clone()].concat();
    vec![
        encoded(&Frame::Accept),
        lease,
        encoded(&Frame::Refuse(refusal.to_vec())),
        fin,
        data(&[7; 3000]),
        data(b"x"),
        reset(1),
        reset(2),
        encoded(&Frame::Reset { lease: 1, note: refusal.to_vec() }),
        auth(0, &[]),
        auth(1, &[17; 60]),
        auth(2, &[11; 300]),
        open(),
    ]
}

fn decoded(pieces: &[&[u8]]) -> (Vec<Frame>, Vec<u8>, Option<FrameError>) {
    let (mut decoder, mut frames, mut data) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in pieces {
        let mut bytes = *piece;
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(Event::Frame(frame))) => frames.push(frame),
                Ok(Some(Event::Data(more))) => data.extend_from_slice(more),
                Ok(None) => break,
                Err(error) => return (frames, data, Some(error)),
            }
        }
    }
    (frames, data, None)
}

#[test]
fn mutated_frames_are_the_same_in_one_piece_and_in_many() {
    let frames = [frames_of_caller(), frames_of_called()].concat();
    let cases = number("POSTERN_FUZZ_CASES", 0).max(CODEC_CASES);
    for seed in seeds(cases) {
        let mut dice = Dice::new(seed);
        let bytes = session(&mut dice, &frames);
        let in_pieces = pieces(&mut dice, &bytes);
        assert_eq!(decoded(&[&bytes]), decoded(&in_pieces), "seed {seed}");
    }
    println!("fuzzing the codec: {cases} cases");
}

/// Panics anywhere in this process: a task that panics may go unnoticed otherwise.
fn count_panics() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
    });
    &PANICS
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

async fn called_case(seed: u64, authority: &Authority, payments: &Sidecar) -> io::Result<()> {
    let mut dice = Dice::new(seed);
    let bytes = session(&mut dice, &frames_of_caller());
    let mut caller = Caller::connect(authority, "orders", payments.inbound.unwrap()).await;
    for piece in pieces(&mut dice, &bytes) {
        caller.send(piece).await?;
        if dice.below(8) == 0 {
            let _some = tokio::time::timeout(LISTENS, caller.tls.read(&mut [0; 4096])).await;
        }
    }
    match dice.below(3) {
        0 => caller.tls.shutdown().await,
        1 => {
            reset_tcp(caller.tls.into_inner().0);
            Ok(())
        }
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_called_sidecar_stands_mutated_sessions_and_its_neighbour_does_not_notice() {
    let panics = count_panics();
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let orders = Spec::new(&authority, "orders").to(&[payments.inbound.unwrap()]).start(&authority);
    let mut neighbour = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut neighbour).await.unwrap();
    let (cases, mut warm) = (number("POSTERN_FUZZ_CASES", CASES), 0);
    for seed in seeds(cases) {
        // Whether the peer closed before everything was sent does not matter.
        let case = called_case(seed, &authority, &payments);
        let _sent =
            tokio::time::timeout(PATIENCE, case).await.unwrap_or_else(|_| panic!("seed {seed} hangs"));
        if seed % 50 == 0 {
            eventually("all but the neighbour have ended", || (payments.live() == 1).then_some(())).await;
            echoed(&mut neighbour).await.unwrap();
            warm = if warm == 0 { resident_bytes() } else { warm };
        }
    }
    eventually("all but the neighbour have ended", || (payments.live() == 1).then_some(())).await;
    echoed(&mut neighbour).await.unwrap();
    let growth = resident_bytes().saturating_sub(warm);
    println!("fuzzing a called sidecar: {cases} cases, {growth} bytes more");
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
    assert_eq!(panics.load(Ordering::Relaxed), 0);
}

/// Answers each tunnel with another session; `next` is the next one's seed.
async fn called_server(authority: Arc<Authority>, next: Arc<AtomicUsize>) -> App {
    App::serve(move |tcp| {
        let (authority, seed) = (authority.clone(), next.fetch_add(1, Ordering::Relaxed) as u64);
        async move {
            let mut dice = Dice::new(seed ^ 1 << 40);
            let bytes = session(&mut dice, &frames_of_called());
            let mut tls = stranger::answer(&authority, "payments", tcp).await?;
            let _said = tokio::time::timeout(LISTENS, tls.read(&mut [0; 100])).await;
            for piece in pieces(&mut dice, &bytes) {
                tls.write_all(piece).await?;
                tls.flush().await?;
            }
            let _said = tokio::time::timeout(LISTENS, tls.read(&mut [0; 100])).await;
            if dice.below(2) == 0 { tls.shutdown().await } else { Ok(()) }
        }
    })
    .await
}

/// Says a word or nothing, and waits for the end, which may come before that.
async fn calling_app(seed: u64, to: SocketAddr) -> io::Result<usize> {
    let mut app = TcpStream::connect(to).await?;
    if !seed.is_multiple_of(3) {
        app.write_all(b"word").await?;
    }
    app.read_to_end(&mut Vec::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calling_sidecar_stands_mutated_answers_and_its_app_always_hears_of_the_end() {
    let panics = count_panics();
    let authority = Arc::new(Authority::new());
    let first = number("POSTERN_FUZZ_SEED", 1) as usize;
    let next = Arc::new(AtomicUsize::new(first));
    let called = called_server(authority.clone(), next.clone()).await;
    let orders = Spec::new(&authority, "orders").to(&[called.address]).start(&authority);
    let (cases, mut warm) = (number("POSTERN_FUZZ_CASES", CASES), 0);
    for seed in seeds(cases) {
        let ended = tokio::time::timeout(PATIENCE, calling_app(seed, orders.outbound.unwrap())).await;
        let _however = ended.unwrap_or_else(|_| panic!("the app of seed {seed} hangs"));
        if seed % 50 == 0 {
            eventually("all have ended", || (orders.live() == 0).then_some(())).await;
            warm = if warm == 0 { resident_bytes() } else { warm };
        }
    }
    eventually("all have ended", || (orders.live() == 0).then_some(())).await;
    let growth = resident_bytes().saturating_sub(warm);
    let answered = next.load(Ordering::Relaxed) - first;
    println!("fuzzing a calling sidecar: {cases} cases, {answered} answers, {growth} bytes more");
    assert!(answered as u64 >= cases / 2, "or nothing was tried");
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
    assert_eq!(panics.load(Ordering::Relaxed), 0);
}
