//! A sidecar's side of the subscription stream, which says and reads what a test wants.

use std::time::Duration;

use postern_proto::identity::Svid;
use postern_proto::wire::v1::admin_client::AdminClient;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{
    ListCallReportsRequest, ListCallReportsResponse, PolicyAcknowledgement, PolicySlice, SidecarHello,
    SidecarReport, SidecarUpdate,
};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::fixture::{Ca, Client};

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(8);

/// A stream that is open; dropping it whole is a crash, dropping `reports` first is taking leave.
pub(crate) struct Subscriber {
    pub(crate) updates: Streaming<SidecarUpdate>,
    pub(crate) reports: mpsc::Sender<SidecarReport>,
}

pub(crate) fn hello(instance: &str) -> SidecarHello {
    SidecarHello { instance: instance.to_owned(), version: "0.1.0".to_owned(), ..SidecarHello::default() }
}

/// A certificate for a service.
pub(crate) async fn svid(ca: &Ca, id: &str) -> Svid {
    ca.client().redeem(&ca.token(id, 1)).await.unwrap()
}

impl Client {
    /// Opens a stream that begins with `first`.
    pub(crate) async fn begin(&self, svid: Option<&Svid>, first: Report) -> Result<Subscriber, Status> {
        let mut connection = self.connect(svid).await.unwrap();
        let (reports, waiting) = mpsc::channel(4);
        reports.try_send(SidecarReport { report: Some(first) }).unwrap();
        let updates = connection.subscribe(ReceiverStream::new(waiting)).await?.into_inner();
        Ok(Subscriber { updates, reports })
    }

    pub(crate) async fn subscribe(&self, svid: &Svid, hello: SidecarHello) -> Result<Subscriber, Status> {
        self.begin(Some(svid), Report::Hello(hello)).await
    }
}

impl Subscriber {
    /// The next update, or how the stream ends.
    pub(crate) async fn next(&mut self) -> Result<Option<Update>, Status> {
        let update = tokio::time::timeout(SOON, self.updates.message()).await.expect("something comes")?;
        Ok(update.map(|update| update.update.unwrap()))
    }

    /// The next slice; revocations before it are passed over.
    pub(crate) async fn slice(&mut self) -> PolicySlice {
        loop {
            match self.next().await.unwrap().unwrap() {
                Update::Policy(slice) => return slice,
                Update::Revoked(_) => {}
            }
        }
    }

    /// The next list of revoked identities; policies before it are passed over.
    pub(crate) async fn revoked(&mut self) -> Vec<String> {
        loop {
            match self.next().await.unwrap().unwrap() {
                Update::Revoked(list) => return list.ids,
                Update::Policy(_) => {}
            }
        }
    }

    /// Why the CA ended the stream; updates before it are passed over.
    pub(crate) async fn refusal(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => return status,
            }
        }
    }

    pub(crate) async fn report(&self, report: Report) {
        self.reports.send(SidecarReport { report: Some(report) }).await.unwrap();
    }

    pub(crate) async fn acknowledge(&self, version: u64) {
        let said = PolicyAcknowledgement { version, ..PolicyAcknowledgement::default() };
        self.report(Report::Acknowledgement(said)).await;
    }
}

impl Ca {
    /// Puts a policy in force; its text is written first.
    pub(crate) fn apply(&self, policy: &str) {
        let file = self.data_dir.with_file_name("policy.toml");
        std::fs::write(&file, policy).unwrap();
        self.told(&["policy", "apply", file.to_str().unwrap(), "--author", "ann", "--wait", "0s"]);
    }

    /// `policy status`, and whether its exit code says that all run it.
    pub(crate) fn policy_status(&self) -> (serde_json::Value, bool) {
        let output = self.ask(&["policy", "status", "--format", "json"]);
        (serde_json::from_slice(&output.stdout).unwrap(), output.status.success())
    }

    /// Waits until `policy status` is as wanted.
    pub(crate) async fn policy_status_where(
        &self,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        until(async || self.policy_status().0, wanted).await
    }

    /// The admin socket, for what no command asks.
    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        let socket = self.data_dir.join("admin.sock");
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://admin.postern.invalid");
        AdminClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    /// Waits until the first page of reported calls is as wanted.
    pub(crate) async fn reported_calls_where(
        &self,
        wanted: impl Fn(&ListCallReportsResponse) -> bool,
    ) -> ListCallReportsResponse {
        let mut admin = self.admin().await;
        let list =
            async || admin.list_call_reports(ListCallReportsRequest::default()).await.unwrap().into_inner();
        until(list, wanted).await
    }
}

/// Asks until the answer is as wanted.
async fn until<T: std::fmt::Debug>(mut ask: impl AsyncFnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let started = tokio::time::Instant::now();
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        assert!(started.elapsed() < SOON, "it stays {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
