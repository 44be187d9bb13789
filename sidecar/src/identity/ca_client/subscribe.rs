//! The long-lived subscription stream: updates from the CA, reports from this sidecar.

use postern_proto::wire::SLICE_BYTES_MAX;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{SidecarHello, SidecarReport, SidecarUpdate};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::connect::Connection;
use super::{CaClient, CaError, ca_verifier};
use crate::identity::credentials::Credentials;

/// Maximum number of reports that wait for the CA to read them.
const REPORTS_WAITING_MAX: usize = 4;

/// An open stream. The CA has sent its first update.
pub struct SubscriptionStream {
    /// Generation of the credentials that authenticate the stream.
    pub generation: u64,
    /// Dropping the sender closes the sidecar's side of the stream.
    pub reports: mpsc::Sender<SidecarReport>,
    updates: Streaming<SidecarUpdate>,
    /// The update that was received while the stream was opened.
    first: Option<SidecarUpdate>,
    connection: Connection,
}

impl std::fmt::Debug for SubscriptionStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionStream").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl CaClient {
    /// Opens a stream with the credentials `own`. It is open once its first update has arrived.
    pub async fn subscribe(
        &self,
        own: &Credentials,
        hello: SidecarHello,
    ) -> Result<SubscriptionStream, CaError> {
        let connection = self.connect(Some(own), ca_verifier(own)).await?;
        let (reports, waiting) = mpsc::channel(REPORTS_WAITING_MAX);
        let hello = SidecarReport { report: Some(Report::Hello(hello)) };
        // Cannot fail: the queue is empty and its receiver still exists.
        let _sent = reports.try_send(hello);
        let mut ca = connection.ca.clone().max_decoding_message_size(SLICE_BYTES_MAX);
        let opening = async {
            let mut updates = ca.subscribe(ReceiverStream::new(waiting)).await?.into_inner();
            let first = updates.message().await?;
            Ok((updates, first))
        };
        match timeout(self.timeouts.request, opening).await {
            Ok(Ok((updates, first @ Some(_)))) => {
                Ok(SubscriptionStream { generation: own.generation, reports, updates, first, connection })
            }
            Ok(Ok((_, None))) => Err(CaError::Ended),
            Ok(Err(status)) => Err(CaError::of_status(&status).or_alert(&connection)),
            Err(_) => Err(CaError::Timeout { step: "the first update", after: self.timeouts.request }),
        }
    }
}

impl SubscriptionStream {
    /// The next update; `None` for an update type that this version does not know.
    pub async fn next(&mut self) -> Result<Option<Update>, CaError> {
        if let Some(first) = self.first.take() {
            return Ok(first.update);
        }
        match self.updates.message().await {
            Ok(Some(update)) => Ok(update.update),
            Ok(None) => Err(CaError::Ended),
            Err(status) => Err(CaError::of_status(&status).or_alert(&self.connection)),
        }
    }

    /// Closes this side and waits until the CA ends the stream, which it does after it has read all reports.
    pub async fn ended(self) {
        let Self { mut updates, reports, .. } = self;
        drop(reports);
        while let Ok(Some(_)) = updates.message().await {}
    }
}

impl CaError {
    /// Whether the CA denies the subscription because this identity is revoked.
    pub fn is_revocation(&self) -> bool {
        matches!(self, Self::Refused { code: Code::PermissionDenied, .. })
    }
}
