//! The findings of `check`: facts, warnings and errors about everything that `run` would use.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use postern_proto::identity::{SpiffeId, Svid};
use postern_proto::policy::Policy;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{Config, HostPort, IdentitySource, JoinTokenSource, Target};
use crate::error_text::one_line;
use crate::identity::files::{FilePaths, load};
use crate::identity::join_token::{self, JoinTokenReadError};
use crate::identity::state_dir::{PersistedIdentity, StateDir};

/// All findings, in the order of the configuration file.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) facts: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) errors: Vec<String>,
}

impl Findings {
    /// Checks everything without opening a port or contacting the CA.
    pub(super) async fn of(config: &Config, now: OffsetDateTime) -> Self {
        let mut findings = Self::default();
        let id = findings.identity(&config.identity, now).await;
        findings.listeners(config);
        findings.policy(config, id.as_ref());
        findings
    }

    async fn identity(&mut self, source: &IdentitySource, now: OffsetDateTime) -> Option<SpiffeId> {
        match source {
            IdentitySource::Ca { ca, join_token, state_dir } => {
                self.facts.push(format!("identity: from the CA at {ca}"));
                let persisted = state_dir.as_deref().and_then(|dir| self.persisted(dir, now));
                self.join_token(join_token.as_ref(), persisted).await
            }
            IdentitySource::Files { svid, key, bundle } => {
                self.warn_if_readable_by_others(key);
                let paths = FilePaths { svid: svid.clone(), key: key.clone(), bundle: bundle.clone() };
                match load(&paths, now).await {
                    Ok((svid, _)) => Some(self.svid("from files", &svid)),
                    Err(error) => self.error(format!("identity: {}", one_line(&error))),
                }
            }
        }
    }

    fn persisted(&mut self, dir: &Path, now: OffsetDateTime) -> Option<SpiffeId> {
        match StateDir::new(dir.to_owned()).load(now) {
            Ok(Some(PersistedIdentity { svid, .. })) => {
                if now.unix_timestamp() > svid.verified().not_after().unix_timestamp() {
                    self.warnings
                        .push("identity: the kept one has expired; it is good for renewing only".to_owned());
                }
                Some(self.svid("kept", &svid))
            }
            Ok(None) => None,
            Err(error) => {
                self.warnings.push(format!("identity: the kept one will not be used: {}", one_line(&error)));
                None
            }
        }
    }

    /// Checks the join token. It is optional if there is a persisted identity, and required otherwise.
    async fn join_token(
        &mut self,
        source: Option<&JoinTokenSource>,
        persisted: Option<SpiffeId>,
    ) -> Option<SpiffeId> {
        if let Some(JoinTokenSource::File(file)) = source {
            self.warn_if_readable_by_others(file);
        }
        let read = match source {
            Some(source) => join_token::read(source).await,
            None => {
                return self.without_token(persisted, "no join token is configured and no identity was kept");
            }
        };
        match (read, persisted) {
            (Ok(read), Some(persisted)) if *read.token.id() != persisted => {
                let found = read.token.id().clone();
                self.warnings.push(format!(
                    "identity: the join token is for {found}, so {persisted} will be set aside"
                ));
                Some(found)
            }
            (Ok(read), persisted) => {
                let id = read.token.id().clone();
                self.facts.push(format!(
                    "join token: for {id}, to be redeemed at a CA with the pin {}",
                    read.token.pin()
                ));
                Some(persisted.unwrap_or(id))
            }
            (Err(error @ JoinTokenReadError::Token(_)), Some(persisted)) => {
                self.warnings.push(one_line(&error));
                Some(persisted)
            }
            (Err(error), persisted) => self.without_token(persisted, &one_line(&error)),
        }
    }

    fn without_token(&mut self, persisted: Option<SpiffeId>, reason: &str) -> Option<SpiffeId> {
        if persisted.is_none() {
            self.errors.push(format!("identity: {reason}"));
        }
        persisted
    }

    fn svid(&mut self, origin: &str, svid: &Svid) -> SpiffeId {
        let until = svid.verified().not_after();
        let until = until.format(&Rfc3339).unwrap_or_else(|_| until.to_string());
        self.facts.push(format!("identity: {} ({origin}), valid until {until}", svid.id()));
        svid.id().clone()
    }

    fn listeners(&mut self, config: &Config) {
        for inbound in &config.inbounds {
            self.facts.push(format!("inbound {}: {} to {}", inbound.name, inbound.listen, inbound.app));
            if !is_loopback(&inbound.app) {
                let rule =
                    "the app is not on a loopback address: whoever can reach it goes round the sidecar";
                self.warnings.push(format!("inbound {}: app = {}: {rule}", inbound.name, inbound.app));
            }
        }
        for outbound in &config.outbounds {
            let to: Vec<_> = outbound.to.iter().map(HostPort::to_string).collect();
            self.facts.push(format!(
                "outbound {}: {} at {}",
                outbound.listen,
                outbound.target,
                to.join(", ")
            ));
        }
        if config.inbounds.is_empty() && config.outbounds.is_empty() {
            self.warnings.push("neither inbound nor outbound: no traffic is carried".to_owned());
        }
        self.facts.push(format!("admin: {}", config.admin));
    }

    fn policy(&mut self, config: &Config, id: Option<&SpiffeId>) {
        let Some(file) = &config.policy_file else {
            match config.identity {
                IdentitySource::Ca { .. } => self.facts.push("policy: from the CA".to_owned()),
                IdentitySource::Files { .. } => self.warnings.push(
                    "policy: no file and no CA, so every peer is refused and no service is resolved"
                        .to_owned(),
                ),
            }
            return;
        };
        let Some(policy) = self.read_policy(file) else { return };
        self.facts.push(format!("policy: {} ({})", file.display(), policy.digest()));
        if let Some(id) = id
            && id.trust_domain() != policy.trust_domain()
        {
            let (own, other) = (id.trust_domain(), policy.trust_domain());
            self.warnings.push(format!("policy: it is about trust domain {other}, the identity is of {own}"));
        }
        for outbound in &config.outbounds {
            if let Target::Service(name) = &outbound.target
                && policy.identity_of(name).is_none()
            {
                self.errors
                    .push(format!("outbound {}: the policy declares no service {name:?}", outbound.listen));
            }
        }
    }

    fn read_policy(&mut self, file: &Path) -> Option<Policy> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => return self.error(format!("policy: {} cannot be read: {error}", file.display())),
        };
        match Policy::parse(&file.display().to_string(), &text) {
            Ok(policy) => Some(policy),
            Err(problems) => {
                self.errors.extend(problems.iter().map(ToString::to_string));
                None
            }
        }
    }

    /// Warns if other users can read a secret file.
    fn warn_if_readable_by_others(&mut self, file: &Path) {
        // A missing file is reported when it is read.
        if let Ok(metadata) = std::fs::metadata(file)
            && metadata.permissions().mode() & 0o077 != 0
        {
            let mode = metadata.permissions().mode() & 0o777;
            self.warnings.push(format!("{}: mode {mode:o} lets others read a secret", file.display()));
        }
    }

    fn error<T>(&mut self, text: String) -> Option<T> {
        self.errors.push(text);
        None
    }
}

fn is_loopback(app: &HostPort) -> bool {
    let address: Result<IpAddr, _> = app.host.parse();
    app.host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}
