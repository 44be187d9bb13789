//! How long a policy change takes to 1,000 connected sidecars, and what it costs the CA.
//!
//! `cargo bench -p postern-integration --bench distribution` prints medians and worst as Markdown. The sidecars are
//! streams over TLS connections of their own in this process, on the same machine as the real `postern-ca`; each reads its
//! slice as a sidecar does before it acknowledges. A change counts from `ApplyPolicy` until the CA says that all run it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_integration::{Ca, CaOptions, Mesh, tls};
use postern_proto::policy::Policy;
use postern_proto::wire::v1::admin_client::AdminClient;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{
    ApplyPolicyRequest, PolicyAcknowledgement, ShowPolicyStatusRequest, SidecarHello, SidecarReport,
};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const SERVICES: usize = 100;
const SIDECARS_OF_EACH: usize = 10;
const RULES_OF_EACH: usize = 10;
const CHANGES: usize = 10;
/// How often the CA is asked, once all have answered.
const POLL: Duration = Duration::from_millis(2);
/// Kernel clock ticks a second in `/proc/PID/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

#[tokio::main]
async fn main() {
    let mesh = Mesh::default();
    let ca = mesh.ca(CaOptions::default()).await;
    let mut admin = admin(&ca).await;
    let (mut sidecars, answered) = (JoinSet::new(), Arc::new(watch::Sender::new(0)));
    for service in 0..SERVICES {
        let svid = tls::enrol(&ca, &format!("s{service}")).await;
        for instance in 0..SIDECARS_OF_EACH {
            let client = tls::ca_client(&ca, Some(&svid)).await;
            sidecars.spawn(sidecar(client, service, instance, answered.clone()));
        }
    }
    answered_by_all(&answered).await;
    let (all, cpu) = (SERVICES * SIDECARS_OF_EACH, cpu_seconds(ca.program.pid()));
    let resident = ca.program.resident_kib() / 1024;
    println!(
        "{all} sidecars, {SERVICES} services of {RULES_OF_EACH} rules each; CA {resident} MiB, {cpu:.1} CPU-s so far\n"
    );
    println!(
        "| {CHANGES} changes | until all run it, ms: median | worst | CA's CPU, ms each |\n|---|---|---|---|"
    );
    let mut number = 0;
    for (what, services) in [("of every slice", SERVICES), ("of one identity's slice", 1)] {
        let (mut times, cpu) = (Vec::new(), cpu_seconds(ca.program.pid()));
        for _ in 0..CHANGES {
            number += 1;
            times.push(change(&mut admin, &answered, policy(number, services)).await);
        }
        let cpu = (cpu_seconds(ca.program.pid()) - cpu) / CHANGES as f64 * 1e3;
        times.sort_by(f64::total_cmp);
        println!("| {what} | {:.0} | {:.0} | {cpu:.0} |", times[CHANGES / 2], times[CHANGES - 1]);
    }
}

/// Where `changed` services have a rule that no version before had.
fn policy(number: usize, changed: usize) -> String {
    let mut text = "trust_domain = \"shop.example\"\n".to_owned();
    for service in 0..SERVICES {
        let version = if service < changed { number } else { 0 };
        write!(text, "[service.s{service}]\nports = {{ api = \"http\" }}\n").unwrap();
        for rule in 0..RULES_OF_EACH {
            let from = (service + rule) % SERVICES;
            write!(
                text,
                "[[service.s{service}.allow]]\nfrom = [\"s{from}\"]\ncalls = [\"GET /v{version}/r{rule}/**\"]\n\
                 owner = \"team\"\nreason = \"a benchmark\"\n"
            )
            .unwrap();
        }
    }
    writeln!(text, "# {number}").unwrap();
    text
}

/// Applies a policy, and says how many milliseconds later all run it.
async fn change(admin: &mut AdminClient<Channel>, answered: &Arc<watch::Sender<usize>>, text: String) -> f64 {
    answered.send_replace(0);
    let started = Instant::now();
    let request = ApplyPolicyRequest {
        text,
        file: "policy.toml".to_owned(),
        author: "benchmark".to_owned(),
        ..ApplyPolicyRequest::default()
    };
    admin.apply_policy(request).await.unwrap();
    answered_by_all(answered).await;
    loop {
        let status = admin.show_policy_status(ShowPolicyStatusRequest {}).await.unwrap().into_inner();
        if status.running == status.sidecars {
            assert_eq!(status.sidecars, (SERVICES * SIDECARS_OF_EACH) as u64);
            return started.elapsed().as_secs_f64() * 1e3;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn answered_by_all(answered: &Arc<watch::Sender<usize>>) {
    let all = |answered: &usize| *answered == SERVICES * SIDECARS_OF_EACH;
    answered.subscribe().wait_for(all).await.unwrap();
}

type CaClient = postern_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient<Channel>;

/// Subscribes, and acknowledges each slice once it has been read.
async fn sidecar(mut client: CaClient, service: usize, instance: usize, answered: Arc<watch::Sender<usize>>) {
    let (reports, waiting) = mpsc::channel(4);
    let hello = SidecarHello {
        instance: instance.to_string(),
        services: (1..5).map(|next| format!("s{}", (service + next) % SERVICES)).collect(),
        ..SidecarHello::default()
    };
    reports.send(SidecarReport { report: Some(Report::Hello(hello)) }).await.unwrap();
    let mut updates = client.subscribe(ReceiverStream::new(waiting)).await.unwrap().into_inner();
    while let Some(update) = updates.message().await.unwrap() {
        let Some(Update::Policy(slice)) = update.update else { continue };
        let version = slice.version;
        if version > 0 {
            Policy::from_slice(slice).unwrap();
        }
        let said = PolicyAcknowledgement { version, ..PolicyAcknowledgement::default() };
        reports.send(SidecarReport { report: Some(Report::Acknowledgement(said)) }).await.unwrap();
        answered.send_modify(|answered| *answered += 1);
    }
}

async fn admin(ca: &Ca) -> AdminClient<Channel> {
    let socket = ca.data_dir.join("admin.sock");
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://admin.postern.invalid");
    AdminClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}
