//! What workloads ask: a first certificate, and the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_proto::join_token::JoinToken;
use postern_proto::wire::v1::certificate_authority_server::CertificateAuthority;
use postern_proto::wire::v1::issue_request::Attestation as Proof;
use postern_proto::wire::v1::{IssueRequest, IssueResponse, RenewRequest, SidecarReport, TrustBundle};
use time::OffsetDateTime;
use tokio::sync::SemaphorePermit;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::subscribe::{self, Updates};
use super::{Caller, Shared, errors};
use crate::attest::Attestation;
use crate::issue::{Csr, Released, Template};
use crate::rates::rated_as;
use crate::registry::Grant;
use crate::store::{CommitError, Refused};

/// Whoever finds the CA busy may come back after this.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// The service for workloads.
#[derive(Debug, Clone)]
pub struct WorkloadApi(pub Arc<Shared>);

#[tonic::async_trait]
impl CertificateAuthority for WorkloadApi {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let caller = caller(&request)?;
        let subject = caller.address.ip().to_string();
        let IssueRequest { csr, attestation } = request.into_inner();
        let issued = async {
            let _permit = self.admit(&caller)?;
            self.certify(Attestation::by_token(join_token(attestation)?), &csr).await
        };
        self.answer(issued.await, subject).await
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssueResponse>, Status> {
        let caller = caller(&request)?;
        let svid = caller.svid.as_ref();
        let subject = svid.map_or_else(|| caller.address.ip().to_string(), |svid| svid.id().to_string());
        let csr = request.into_inner().csr;
        let issued = async {
            let _permit = self.admit(&caller)?;
            let svid = svid.ok_or_else(|| {
                Status::unauthenticated("renewing needs the current certificate, shown in the TLS handshake")
            })?;
            self.certify(Attestation::by_svid(svid.clone(), OffsetDateTime::now_utc()), &csr).await
        };
        self.answer(issued.await, subject).await
    }

    type SubscribeStream = Updates;

    async fn subscribe(
        &self,
        request: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = caller(&request)?;
        let opened = async {
            // While it is waited for the hello, others may have the permit.
            drop(self.admit(&caller)?);
            subscribe::open(&self.0, &caller, request.into_inner()).await
        };
        let refused = |status: &Status| {
            let subject = caller.svid.as_ref().map(|svid| svid.id().to_string());
            warn!(address = %caller.address, id = subject, reason = status.message(), "subscription refused");
        };
        opened.await.inspect_err(refused).map(Response::new)
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("the connection has no caller"))
}

fn join_token(attestation: Option<Proof>) -> Result<JoinToken, Status> {
    match attestation {
        Some(Proof::JoinToken(token)) => {
            JoinToken::parse(&token).map_err(|error| Status::invalid_argument(error.to_string()))
        }
        None => Err(Status::invalid_argument("no attestation is given; a join token is one")),
    }
}

impl WorkloadApi {
    /// Lets a request in, within the limits of requests and of the address.
    fn admit(&self, caller: &Caller) -> Result<SemaphorePermit<'_>, Status> {
        let busy = |_| errors::busy("too many requests are under way", BUSY_WAIT);
        let permit = self.0.requests.try_acquire().map_err(busy)?;
        let taken = self.0.addresses.take(rated_as(caller.address.ip()), Instant::now());
        taken.map_err(|wait| errors::busy("too many requests from this address", wait))?;
        Ok(permit)
    }

    /// The chain of an issuance: attested, granted, filled in, signed and doubted, recorded, released.
    async fn certify(&self, attestation: Attestation, csr: &[u8]) -> Result<Released, Status> {
        let (shared, now) = (&self.0, OffsetDateTime::now_utc());
        let authority = &shared.authority;
        let grant = Grant::new(attestation, authority.bundle(), shared.renew_after_expiry, now);
        let grant = grant.map_err(|error| errors::grant(&error))?;
        let csr = self.check_proof(&grant, csr).await?;
        let taken = shared.identities.take(grant.id().clone(), Instant::now());
        taken.map_err(|wait| errors::busy(&format!("too many requests for {}", grant.id()), wait))?;
        let template =
            Template::new(grant, csr, shared.svid_ttl, now).map_err(|error| errors::issue(&error.into()))?;
        let issued = template.sign(authority, now).map_err(|error| errors::issue(&error))?;
        issued.release(&shared.store).await.map_err(|error| errors::commit(&error))
    }

    /// Looks whether a token is good, before it counts against the rate of its identity and costs a signature: else
    /// anybody could keep an identity from renewing. One that is used up or too old is good for the key that it was
    /// redeemed with, whose answer may be lost. A certificate has been proved in the handshake already. Whether
    /// either still holds when it counts, the transaction decides that records the issuance.
    async fn check_proof(&self, grant: &Grant, csr: &[u8]) -> Result<Csr, Status> {
        let parse = || Csr::parse(csr).map_err(|error| errors::csr(&error));
        let Attestation::JoinToken { hash, .. } = grant.attestation() else { return parse() };
        let (id, deadline, store) = (grant.id().as_str(), grant.deadline(), &self.0.store);
        match store.check_token(*hash, id, deadline.now).await {
            Ok(()) => parse(),
            Err(spent @ (CommitError::TokenUsedUp | CommitError::TokenExpired)) => {
                let csr = parse()?;
                let redeemed = store.is_redeemed(*hash, id, deadline, &csr.key_sha256()).await;
                let redeemed = redeemed.map_err(|error| errors::store(&error))?;
                if redeemed { Ok(csr) } else { Err(errors::commit(&spent)) }
            }
            Err(wrong) => Err(errors::commit(&wrong)),
        }
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
