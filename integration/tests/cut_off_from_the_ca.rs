//! A sidecar that cannot renew any more is cut within a second of its certificate's end, with that reason, and nobody
//! else is.

use std::net::SocketAddr;
use std::time::Duration;

use postern_integration::apps::App;
use postern_integration::{CaOptions, Mesh, PATIENCE, Sidecar, SidecarSpec};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp" }
[[service.payments.allow]]
from = ["orders", "reports"]
[service.orders]
[service.reports]
"#;
/// A certificate holds through the whole second of its end.
const LAST_SECOND: Duration = Duration::from_secs(1);
const AT_ONCE: Duration = Duration::from_secs(1);

/// Who loses the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Caller,
    Called,
}

/// Two callers of `payments`; between the CA and one of the three lies a cable that can be cut.
struct Mall {
    payments: Sidecar,
    orders: Sidecar,
    reports: Sidecar,
    cable: App,
    /// How the app's connections to payments have ended.
    ends: mpsc::UnboundedReceiver<(String, bool)>,
    _everything_else: (postern_integration::Ca, App, Mesh),
}

impl Mall {
    async fn start(lost: Lost) -> Self {
        let mesh = Mesh::default();
        let ca = mesh.ca(CaOptions { svid_ttl: "10s", ..CaOptions::default() }).await;
        let policy = mesh.write("policy.toml", POLICY);
        let cable = cable(ca.address).await;
        let (told, ends) = mpsc::unbounded_channel();
        let app = naming_app(told).await;
        let start = |name: &str, spec: SidecarSpec, is_lost: bool| {
            let token = mesh.write(&format!("{name}.token"), &ca.token(name));
            let address = if is_lost { cable.address } else { ca.address };
            let state = mesh.path().join(format!("{name}.state"));
            let identity = format!(
                "ca = \"https://{address}\"\njoin_token_file = \"{}\"\nstate_dir = \"{}\"\n",
                token.display(),
                state.display()
            );
            mesh.sidecar_with(&identity, &spec.policy(&policy))
        };
        let spec = SidecarSpec::new("payments").inbound("api", app.address);
        let payments = start("payments", spec, lost == Lost::Called);
        let to = payments.inbounds[0];
        let orders =
            start("orders", SidecarSpec::new("orders").outbound("payments", to), lost == Lost::Caller);
        let reports = start("reports", SidecarSpec::new("reports").outbound("payments", to), false);
        for sidecar in [&payments, &orders, &reports] {
            sidecar.ready().await;
        }
        Self { payments, orders, reports, cable, ends, _everything_else: (ca, app, mesh) }
    }
}

/// Passes bytes on to `to`, until it is dropped.
async fn cable(to: SocketAddr) -> App {
    App::serve(move |mut near| async move {
        let mut far = TcpStream::connect(to).await?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await.map(|_| ())
    })
    .await
}

/// Echoes, and tells by its first line of each connection whether that was reset in the end.
async fn naming_app(told: mpsc::UnboundedSender<(String, bool)>) -> App {
    App::serve(move |mut stream| {
        let told = told.clone();
        async move {
            let (mut name, mut buffer) = (String::new(), [0; 64]);
            loop {
                let read = stream.read(&mut buffer).await;
                match read {
                    Ok(count) if count > 0 => {
                        name.push_str(&String::from_utf8_lossy(&buffer[..count]));
                        stream.write_all(&buffer[..count]).await?;
                    }
                    ended => {
                        let first = name.lines().next().unwrap_or_default().to_owned();
                        return told.send((first, ended.is_err())).map_err(std::io::Error::other);
                    }
                }
            }
        }
    })
    .await
}

async fn say(stream: &mut TcpStream, word: &str) -> std::io::Result<()> {
    stream.write_all(word.as_bytes()).await?;
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).await?;
    assert_eq!(heard, word.as_bytes());
    Ok(())
}

async fn connected(sidecar: &Sidecar) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.outbounds[0]).await.unwrap();
    say(&mut stream, &format!("{}\n", sidecar.name)).await.unwrap();
    stream
}

/// Talks on until it is reset, and says when that was.
async fn reset(stream: &mut TcpStream) -> OffsetDateTime {
    let talking = async {
        loop {
            if let Err(error) = say(stream, "word\n").await {
                return error;
            }
            // A breath leaves the machine to the programs under test.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let error = tokio::time::timeout(PATIENCE, talking).await.expect("it is cut");
    let at = OffsetDateTime::now_utc();
    let reset = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(reset.contains(&error.kind()), "cut means reset, not a clean end: {error:?}");
    at
}

async fn not_after(sidecar: &Sidecar) -> OffsetDateTime {
    let status = sidecar.status().await;
    let text = status["identity"]["not_after"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned();
    OffsetDateTime::parse(&text, &Rfc3339).unwrap()
}

async fn cut_at_the_end_of_its_certificate(lost: Lost) {
    let mut mall = Mall::start(lost).await;
    let (mut of_orders, mut of_reports) = (connected(&mall.orders).await, connected(&mall.reports).await);
    let address = mall.cable.address;
    drop(mall.cable);
    let (alone, other) = match lost {
        Lost::Caller => (&mall.orders, &mall.payments),
        Lost::Called => (&mall.payments, &mall.orders),
    };
    let end = not_after(alone).await;
    let when = reset(&mut of_orders).await;
    assert_eq!(not_after(alone).await, end, "nothing was renewed by {address}");
    let late = when - end;
    assert!(late >= LAST_SECOND && late <= LAST_SECOND + AT_ONCE, "cut {late} after {end}");
    println!("{lost:?}: cut {late} after notAfter");

    // Both ends look at the same moment; whoever is first cuts and says why, and the other may see no more than that.
    tokio::select! {
        _said = other.program.line_with(&["cut", "peer_expired", "spiffe://shop.example/"]) => {}
        _said = alone.program.line_with(&["own_identity_expired"]) => {}
    }
    if lost == Lost::Caller {
        say(&mut of_reports, "word\n").await.expect("the other caller's connection goes on");
        connected(&mall.reports).await;
    } else {
        reset(&mut of_reports).await;
    }
    let ended = tokio::time::timeout(PATIENCE, mall.ends.recv()).await.unwrap();
    let mut expected = vec![Some(("orders".to_owned(), true))];
    if lost == Lost::Called {
        expected.push(Some(("reports".to_owned(), true)));
    }
    assert!(expected.contains(&ended), "the called app sees a reset, too: {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_its_ca_is_cut_alone() {
    cut_at_the_end_of_its_certificate(Lost::Caller).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_called_side_without_its_ca_is_cut_by_all() {
    cut_at_the_end_of_its_certificate(Lost::Called).await;
}
