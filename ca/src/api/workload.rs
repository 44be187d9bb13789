//! What workloads ask: a first certificate, and the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_proto::join_token::{JOIN_TOKEN_BYTES_MAX, JoinToken};
use postern_proto::wire::v1::certificate_authority_server::CertificateAuthority;
use postern_proto::wire::v1::issue_request::Attestation as Proof;
use postern_proto::wire::v1::{IssueRequest, IssueResponse, RenewRequest, TrustBundle};
use time::OffsetDateTime;
use tokio::sync::SemaphorePermit;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::{Caller, Shared, errors};
use crate::attest::Attestation;
use crate::issue::{Csr, Released, Template};
use crate::registry::Grant;
use crate::store::Refused;

/// Whoever finds the CA busy may come back after this.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// The service for workloads.
#[derive(Debug, Clone)]
pub struct WorkloadApi(pub Arc<Shared>);

#[tonic::async_trait]
impl CertificateAuthority for WorkloadApi {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let (caller, _permit) = self.admit(&request)?;
        let IssueRequest { csr, attestation } = request.into_inner();
        let subject = caller.address.ip().to_string();
        let proof = match attestation {
            Some(Proof::JoinToken(token)) if token.len() <= JOIN_TOKEN_BYTES_MAX => JoinToken::parse(&token),
            Some(Proof::JoinToken(_)) => return Err(Status::invalid_argument("join token is too long")),
            None => return Err(Status::invalid_argument("no attestation is given; a join token is one")),
        };
        let issued = match proof {
            Ok(token) => self.certify(Attestation::by_token(token), &csr).await,
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        };
        self.answer(issued, subject).await
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssueResponse>, Status> {
        let (caller, _permit) = self.admit(&request)?;
        let Some(svid) = caller.svid else {
            return Err(Status::unauthenticated(
                "renewing needs the current certificate, shown in the TLS handshake",
            ));
        };
        let subject = svid.id().to_string();
        let csr = request.into_inner().csr;
        let issued = self.certify(Attestation::by_svid(svid, OffsetDateTime::now_utc()), &csr).await;
        self.answer(issued, subject).await
    }
}

impl WorkloadApi {
    /// Who asks, within the limits of requests and of the address.
    fn admit<T>(&self, request: &Request<T>) -> Result<(Caller, SemaphorePermit<'_>), Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("the connection has no caller"))?;
        let busy = |_| errors::busy("too many requests are under way", BUSY_WAIT);
        let permit = self.0.requests.try_acquire().map_err(busy)?;
        let taken = self.0.addresses.take(caller.address.ip(), Instant::now());
        taken.map_err(|wait| errors::busy("too many requests from this address", wait))?;
        Ok((caller, permit))
    }

    /// The chain of an issuance: attested, granted, filled in, signed and doubted, recorded, released.
    async fn certify(&self, attestation: Attestation, csr: &[u8]) -> Result<Released, Status> {
        let (shared, now) = (&self.0, OffsetDateTime::now_utc());
        let authority = &shared.authority;
        let pin = authority.bundle().pin();
        let grant = Grant::new(attestation, authority.trust_domain(), pin, now);
        let grant = grant.map_err(|error| errors::grant(&error))?;
        let taken = shared.identities.take(grant.id().clone(), Instant::now());
        taken.map_err(|wait| errors::busy(&format!("too many requests for {}", grant.id()), wait))?;
        let csr = Csr::parse(csr).map_err(|error| errors::csr(&error))?;
        let template =
            Template::new(grant, csr, shared.svid_ttl, now).map_err(|error| errors::issue(&error.into()))?;
        let issued = template.sign(authority, now).map_err(|error| errors::issue(&error))?;
        issued.release(&shared.store).await.map_err(|error| errors::commit(&error))
    }

    /// Every decision is on record before the answer leaves.
    async fn answer(
        &self,
        issued: Result<Released, Status>,
        subject: String,
    ) -> Result<Response<IssueResponse>, Status> {
        match issued {
            Ok(Released { chain, record, ignored }) => {
                info!(id = record.spiffe_id, serial = record.serial, by = record.attestation, "issued");
                let bundle = self.0.authority.bundle();
                let bundle = TrustBundle {
                    trust_domain: bundle.trust_domain().to_string(),
                    roots: bundle.roots().iter().map(|root| root.to_vec()).collect(),
                    sequence: 1,
                };
                let chain = chain.into_iter().map(|der| der.to_vec()).collect();
                Ok(Response::new(IssueResponse { chain, bundles: vec![bundle], ignored }))
            }
            Err(status) => {
                let reason = status.message().to_owned();
                warn!(subject, reason, "refused");
                let at = OffsetDateTime::now_utc().unix_timestamp();
                let audited = self.0.store.audit_refusal(Refused { at, subject, reason }).await;
                audited.map_err(|error| errors::store(&error))?;
                Err(status)
            }
        }
    }
}
