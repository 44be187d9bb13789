//! Which policy a question is about: a file's, or the one that the CA has in force.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use postern_proto::policy::Policy;
use postern_proto::wire::v1::ShowPolicyRequest;

use super::super::admin::Admin;
use super::must_load;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Source {
    /// The policy file.
    #[arg(required_unless_present = "live")]
    file: Option<PathBuf>,
    /// Use the policy in force at the CA instead of a file.
    #[arg(long, conflicts_with = "file")]
    live: bool,
    #[command(flatten)]
    admin: Admin,
}

impl Source {
    /// The policy, after its problems have been told if it is none.
    pub(super) fn load(&self) -> anyhow::Result<Policy> {
        match &self.file {
            Some(file) => must_load(file),
            None => self.stored(),
        }
    }

    fn stored(&self) -> anyhow::Result<Policy> {
        let request = ShowPolicyRequest { version: None };
        let stored = self.admin.clone().fetch(async |client| client.show_policy(request).await)?.into_inner();
        let version = stored.version.context("the CA's answer has no version")?;
        Policy::parse(&version.file, &stored.text).map_err(|problems| {
            problems.iter().for_each(|problem| eprintln!("{problem}\n"));
            anyhow!("version {} of the CA's policy cannot be read by this program", version.number)
        })
    }
}
