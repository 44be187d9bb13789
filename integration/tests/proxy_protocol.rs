//! haproxy as the app of a `tcp` inbound takes the PROXY protocol header and knows who calls.

use postern_integration::{CaOptions, Mesh, Program, SidecarSpec, eventually, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

const POLICY: &str = r#"trust_domain = "shop.example"
[service.payments]
ports = { api = "tcp" }
[[service.payments.allow]]
from = ["orders"]
port = "api"
owner = "team-checkout"
reason = "orders charges the card"
[service.orders]
"#;

fn haproxy(mesh: &Mesh, port: u16) -> Program {
    let text = format!(
        "defaults\n  mode http\n  timeout client 60s\n  timeout connect 60s\n  timeout server 60s\n\
         frontend app\n  bind 127.0.0.1:{port} accept-proxy\n\
         http-request return status 200 content-type text/plain lf-string \"from %[src] to %[dst_port]\"\n"
    );
    let file = mesh.write("haproxy.cfg", &text);
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(file);
    Program::start_command("haproxy", command)
}

async fn get(at: std::net::SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn haproxy_behind_an_inbound_sees_the_peer_and_not_the_sidecar() {
    let mesh = Mesh::default();
    let app = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _haproxy = haproxy(&mesh, app.port());
    let ca = mesh.ca(CaOptions::default()).await;
    let policy = mesh.write("policy.toml", POLICY);
    // It stands below the inbound.
    let told = "proxy_protocol = \"v2\"\n";
    let payments = SidecarSpec::new("payments").inbound("api", app).policy(&policy).extra(told);
    let payments = mesh.sidecar(&ca, &payments);
    payments.ready().await;
    let orders = SidecarSpec::new("orders").outbound("payments", payments.inbounds[0]).policy(&policy);
    let orders = mesh.sidecar(&ca, &orders);
    orders.ready().await;
    let wanted = format!("from 127.0.0.1 to {}", payments.inbounds[0].port());
    // haproxy may not listen yet.
    eventually("the answer", async || {
        let answer = get(orders.outbounds[0]).await.ok()?;
        answer.ends_with(&wanted).then_some(())
    })
    .await;
}
