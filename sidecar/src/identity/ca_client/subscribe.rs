//! The long-lived stream: what the CA tells down, what this sidecar reports up.

use postern_proto::wire::SLICE_BYTES_MAX;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{SidecarHello, SidecarReport, SidecarUpdate};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::connect::Connection;
use super::{CaClient, CaError, ca_judge};
use crate::identity::credentials::Credentials;

/// So many reports wait until the CA reads them.
const REPORTS_WAITING_MAX: usize = 4;

/// A stream that the CA has begun to serve.
pub struct Subscribed {
    /// The identity's generation that vouches for it.
    pub generation: u64,
    /// Dropping it tells the CA that nothing more comes.
    pub reports: mpsc::Sender<SidecarReport>,
    updates: Streaming<SidecarUpdate>,
    /// What came while it was opened.
    first: Option<SidecarUpdate>,
    connection: Connection,
}

impl std::fmt::Debug for Subscribed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscribed").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl CaClient {
    /// Opens a stream for the identity at hand. It is open when its first update is there.
    pub async fn subscribe(&self, own: &Credentials, hello: SidecarHello) -> Result<Subscribed, CaError> {
        let connection = self.connect(Some(own), ca_judge(own)).await?;
        let (reports, waiting) = mpsc::channel(REPORTS_WAITING_MAX);
        let hello = SidecarReport { report: Some(Report::Hello(hello)) };
        // The queue is empty and its other end is here.
        let _sent = reports.try_send(hello);
        let mut ca = connection.ca.clone().max_decoding_message_size(SLICE_BYTES_MAX);
        let opening = async {
            let mut updates = ca.subscribe(ReceiverStream::new(waiting)).await?.into_inner();
            let first = updates.message().await?;
            Ok((updates, first))
        };
        match timeout(self.timeouts.request, opening).await {
            Ok(Ok((updates, first @ Some(_)))) => {
                Ok(Subscribed { generation: own.generation, reports, updates, first, connection })
            }
            Ok(Ok((_, None))) => Err(CaError::Ended),
            Ok(Err(status)) => Err(CaError::of_status(&status).explained_by(&connection)),
            Err(_) => Err(CaError::Timeout { step: "the first update", after: self.timeouts.request }),
        }
    }
}

impl Subscribed {
    /// The next update; `None` is one that this version does not know.
    pub async fn next(&mut self) -> Result<Option<Update>, CaError> {
        if let Some(first) = self.first.take() {
            return Ok(first.update);
        }
        match self.updates.message().await {
            Ok(Some(update)) => Ok(update.update),
            Ok(None) => Err(CaError::Ended),
            Err(status) => Err(CaError::of_status(&status).explained_by(&self.connection)),
        }
    }

    /// Waits until the CA ends the stream, which it does when it has read all reports.
    pub async fn ended(self) {
        let Self { mut updates, reports, .. } = self;
        drop(reports);
        while let Ok(Some(_)) = updates.message().await {}
    }
}

impl CaError {
    /// Whether the CA says that this identity may not subscribe: it is revoked.
    pub fn says_revoked(&self) -> bool {
        matches!(self, Self::Refused { code: Code::PermissionDenied, .. })
    }
}
