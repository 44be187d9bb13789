//! What operators ask, on the Unix socket.

use std::sync::Arc;

use postern_proto::identity::SpiffeId;
use postern_proto::join_token::JoinToken;
use postern_proto::wire::v1::admin_server::Admin;
use postern_proto::wire::v1::audit_verdict::Verdict;
use postern_proto::wire::v1::list_audit_entries_request::From;
use postern_proto::wire::v1::{
    ApplyPolicyRequest, ApplyPolicyResponse, AuditEntry, AuditVerdict, AuditWhole, CaStatus,
    CertificateRecord, CreateJoinTokenRequest, CreateJoinTokenResponse, ListAuditEntriesRequest,
    ListAuditEntriesResponse, ListCallReportsRequest, ListCallReportsResponse, ListCertificatesRequest,
    ListCertificatesResponse, ListPolicyVersionsRequest, ListPolicyVersionsResponse,
    ListRevokedIdentitiesRequest, ListRevokedIdentitiesResponse, PolicyStatus, RestoreIdentityRequest,
    RestoreIdentityResponse, RevokeIdentityRequest, RevokeIdentityResponse, RollBackPolicyRequest,
    ShowBundleRequest, ShowCertificateRequest, ShowPolicyRequest, ShowPolicyStatusRequest, ShowStatusRequest,
    StoredPolicy, TrustBundle, VerifyAuditRequest,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Shared, distribution, errors, policies, revocations};
use crate::attest::hash_of;
use crate::registry::check_grantable;
use crate::store::{self, NewToken, Query, Record};

/// A token is good for at most a week, and at least a second.
pub(crate) const TOKEN_TTL_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;
/// A token can be used at most so often.
pub(crate) const TOKEN_USES_MAX: u32 = 10_000;
const PAGE_DEFAULT: usize = 100;
/// Audit rows in one answer: each has a few kilobytes at most, so that a page fits into a gRPC message.
const AUDIT_PAGE_MAX: usize = 100;

/// The service for operators.
#[derive(Debug, Clone)]
pub struct AdminApi(pub Arc<Shared>);

impl AdminApi {
    /// Reads an ID as an operator types it.
    fn id(&self, text: &str) -> Result<SpiffeId, Status> {
        let own = self.0.authority.trust_domain();
        let id =
            SpiffeId::parse_under(own, text).map_err(|error| Status::invalid_argument(error.to_string()))?;
        check_grantable(&id, own).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(id)
    }
}

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let CreateJoinTokenRequest { id, ttl_seconds, uses } = request.into_inner();
        let id = self.id(&id)?;
        if !(1..=TOKEN_TTL_SECONDS_MAX).contains(&ttl_seconds) {
            let rule =
                format!("a token lives between 1 s and {TOKEN_TTL_SECONDS_MAX} s, not {ttl_seconds} s");
            return Err(Status::invalid_argument(rule));
        }
        if !(1..=TOKEN_USES_MAX).contains(&uses) {
            let rule = format!("a token has between 1 and {TOKEN_USES_MAX} uses, not {uses}");
            return Err(Status::invalid_argument(rule));
        }
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| Status::internal("there is no randomness"))?;
        let token = JoinToken::new(id.clone(), self.0.authority.bundle().pin(), secret);
        let created_at = OffsetDateTime::now_utc().unix_timestamp();
        let expires_at = created_at.saturating_add_unsigned(ttl_seconds);
        let hash = hash_of(token.secret());
        let kept = NewToken { hash, spiffe_id: id.to_string(), created_at, expires_at, uses };
        self.0.store.create_token(kept).await.map_err(|error| errors::commit(&error))?;
        info!(id = %id, uses, ttl_seconds, "join token created");
        let token = token.reveal().to_string();
        Ok(Response::new(CreateJoinTokenResponse { token, spiffe_id: id.to_string(), expires_at }))
    }

    async fn show_bundle(&self, _: Request<ShowBundleRequest>) -> Result<Response<TrustBundle>, Status> {
        let bundle = self.0.authority.bundle();
        Ok(Response::new(TrustBundle {
            trust_domain: bundle.trust_domain().to_string(),
            roots: bundle.roots().iter().map(|root| root.to_vec()).collect(),
            sequence: 1,
        }))
    }

    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let ListCertificatesRequest { id, page_size, page } = request.into_inner();
        let spiffe_id = if id.is_empty() { None } else { Some(self.id(&id)?.to_string()) };
        let page_size = usize::try_from(page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE_DEFAULT);
        let bad_page = |_| Status::invalid_argument("the page is not one that an answer named");
        let before = if page.is_empty() { None } else { Some(page.parse().map_err(bad_page)?) };
        let found = self.0.store.certificates(Query { spiffe_id, page_size, before }).await;
        let found = found.map_err(|error| errors::store(&error))?;
        Ok(Response::new(ListCertificatesResponse {
            certificates: found.records.into_iter().map(to_wire).collect(),
            next_page: found.next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn show_certificate(
        &self,
        request: Request<ShowCertificateRequest>,
    ) -> Result<Response<CertificateRecord>, Status> {
        let serial = request.into_inner().serial.to_ascii_lowercase();
        let found = self.0.store.certificate(&serial).await.map_err(|error| errors::store(&error))?;
        let found =
            found.ok_or_else(|| Status::not_found(format!("no certificate {serial:?} is on record")))?;
        Ok(Response::new(to_wire(found)))
    }

    async fn show_status(&self, _: Request<ShowStatusRequest>) -> Result<Response<CaStatus>, Status> {
        let authority = &self.0.authority;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let counts = self.0.store.counts(now).await.map_err(|error| errors::store(&error))?;
        Ok(Response::new(CaStatus {
            trust_domain: authority.trust_domain().to_string(),
            bundle_pin: authority.bundle().pin().to_hex(),
            certificates_issued: counts.issued.unsigned_abs(),
            certificates_valid: counts.valid.unsigned_abs(),
            issuer_not_after: authority.issuer().not_after.unix_timestamp(),
            root_not_after: authority.root_not_after().unix_timestamp(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        let ListAuditEntriesRequest { from, page_size } = request.into_inner();
        let store = &self.0.store;
        let after = match from {
            Some(From::After(number)) => number,
            Some(From::Newest(rows)) => {
                store.audit_last().await.map_err(|error| errors::store(&error))?.saturating_sub(rows.into())
            }
            None => 0,
        };
        let page = usize::try_from(page_size).ok().filter(|size| (1..=AUDIT_PAGE_MAX).contains(size));
        let entries = store.audit_entries(after, page.unwrap_or(AUDIT_PAGE_MAX)).await;
        let entries =
            entries.map_err(|error| errors::store(&error))?.into_iter().map(entry_to_wire).collect();
        Ok(Response::new(ListAuditEntriesResponse { entries }))
    }

    async fn verify_audit(&self, _: Request<VerifyAuditRequest>) -> Result<Response<AuditVerdict>, Status> {
        let verdict = self.0.store.audit_verify().await.map_err(|error| errors::store(&error))?;
        let verdict = match verdict {
            store::AuditVerdict::Whole { rows, hash } => {
                Verdict::Whole(AuditWhole { rows, hash: hash.to_vec() })
            }
            store::AuditVerdict::BrokenAt { number } => Verdict::BrokenAt(number),
        };
        Ok(Response::new(AuditVerdict { verdict: Some(verdict) }))
    }

    async fn apply_policy(
        &self,
        request: Request<ApplyPolicyRequest>,
    ) -> Result<Response<ApplyPolicyResponse>, Status> {
        let applied = policies::apply(&self.0, request.into_inner(), OffsetDateTime::now_utc());
        applied.await.map(Response::new)
    }

    async fn show_policy(
        &self,
        request: Request<ShowPolicyRequest>,
    ) -> Result<Response<StoredPolicy>, Status> {
        policies::show(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_policy_versions(
        &self,
        request: Request<ListPolicyVersionsRequest>,
    ) -> Result<Response<ListPolicyVersionsResponse>, Status> {
        policies::history(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn roll_back_policy(
        &self,
        request: Request<RollBackPolicyRequest>,
    ) -> Result<Response<ApplyPolicyResponse>, Status> {
        let applied = policies::roll_back(&self.0, request.into_inner(), OffsetDateTime::now_utc());
        applied.await.map(Response::new)
    }

    async fn show_policy_status(
        &self,
        _: Request<ShowPolicyStatusRequest>,
    ) -> Result<Response<PolicyStatus>, Status> {
        Ok(Response::new(distribution::status(&self.0, OffsetDateTime::now_utc())))
    }

    async fn list_call_reports(
        &self,
        request: Request<ListCallReportsRequest>,
    ) -> Result<Response<ListCallReportsResponse>, Status> {
        Ok(Response::new(distribution::calls(&self.0, request.into_inner())))
    }

    async fn revoke_identity(
        &self,
        request: Request<RevokeIdentityRequest>,
    ) -> Result<Response<RevokeIdentityResponse>, Status> {
        let RevokeIdentityRequest { id, reason, author } = request.into_inner();
        let (id, at) = (self.id(&id)?, OffsetDateTime::now_utc().unix_timestamp());
        revocations::revoke(&self.0, id, reason, author, at).await.map(Response::new)
    }

    async fn restore_identity(
        &self,
        request: Request<RestoreIdentityRequest>,
    ) -> Result<Response<RestoreIdentityResponse>, Status> {
        let RestoreIdentityRequest { id, author } = request.into_inner();
        let (id, at) = (self.id(&id)?, OffsetDateTime::now_utc().unix_timestamp());
        revocations::restore(&self.0, id, author, at).await.map(Response::new)
    }

    async fn list_revoked_identities(
        &self,
        request: Request<ListRevokedIdentitiesRequest>,
    ) -> Result<Response<ListRevokedIdentitiesResponse>, Status> {
        revocations::list(&self.0, request.into_inner()).await.map(Response::new)
    }
}

fn entry_to_wire(entry: store::AuditEntry) -> AuditEntry {
    let store::AuditEntry { number, at, decision, subject, detail, hash } = entry;
    AuditEntry { number, at, decision, subject, detail, hash: hash.to_vec() }
}

fn to_wire(record: Record) -> CertificateRecord {
    let Record { serial, spiffe_id, key_sha256, attestation, not_before, not_after, issued_at, issuer } =
        record;
    CertificateRecord { serial, spiffe_id, key_sha256, attestation, not_before, not_after, issued_at, issuer }
}
