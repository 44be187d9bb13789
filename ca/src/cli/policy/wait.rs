//! Waiting, after a change, until the sidecars have acknowledged it.

use std::time::Duration;

use postern_proto::wire::v1::admin_client::AdminClient;
use postern_proto::wire::v1::apply_policy_response::Outcome;
use postern_proto::wire::v1::{ApplyPolicyResponse, PolicyStatus, ShowPolicyStatusRequest};
use postern_server::config::parse_duration;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::transport::Channel;

use super::status;
use crate::cli::print;

/// How often the CA is asked.
const POLL: Duration = Duration::from_millis(100);

/// How long a change is followed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(in crate::cli) struct Wait {
    /// Maximum time to wait for all connected sidecars to acknowledge; 0s does not wait.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    wait: Duration,
}

impl Wait {
    /// What the sidecars say of a version that is in force; nothing where none is, or nobody shall be waited for.
    pub(super) async fn follow(
        self,
        client: &mut AdminClient<Channel>,
        answer: &ApplyPolicyResponse,
    ) -> Result<Option<PolicyStatus>, Status> {
        let Some(Outcome::Applied(version) | Outcome::Unchanged(version)) = &answer.outcome else {
            return Ok(None);
        };
        if self.wait.is_zero() {
            return Ok(None);
        }
        let started = Instant::now();
        loop {
            let status = client.show_policy_status(ShowPolicyStatusRequest {}).await?.into_inner();
            let told = status.policy.as_ref().is_some_and(|policy| policy.version >= version.number);
            if (told && status.awaited == 0) || started.elapsed() >= self.wait {
                return Ok(Some(status));
            }
            sleep(POLL).await;
        }
    }
}

/// Says how far a change has come.
pub(super) fn print_text(status: &PolicyStatus) -> std::io::Result<()> {
    match status.sidecars {
        0 => print("no sidecar is connected"),
        sidecars => {
            print(&format!("{} of {sidecars} sidecars run it", status.running))?;
            status::print_notable(status)
        }
    }
}
