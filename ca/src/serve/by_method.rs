//! Two servers of one gRPC service, with limits of their own: one for calls that anybody may make, one for the
//! streams of those who have shown who they are.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{Request, Response};
use postern_proto::wire::v1::certificate_authority_server::{CertificateAuthorityServer, SERVICE_NAME};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use crate::api::{REPORT_BYTES_MAX, REQUEST_BYTES_MAX, WorkloadApi};

const STREAM_PATH: &str = "/postern.v1.CertificateAuthority/Subscribe";

/// The workloads' service.
#[derive(Debug, Clone)]
pub(super) struct ByMethod {
    calls: CertificateAuthorityServer<WorkloadApi>,
    streams: CertificateAuthorityServer<WorkloadApi>,
}

impl ByMethod {
    pub(super) fn new(api: WorkloadApi) -> Self {
        let server = CertificateAuthorityServer::new;
        Self {
            calls: server(api.clone()).max_decoding_message_size(REQUEST_BYTES_MAX),
            streams: server(api).max_decoding_message_size(REPORT_BYTES_MAX),
        }
    }
}

impl NamedService for ByMethod {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for ByMethod {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    /// Both are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match request.uri().path() {
            STREAM_PATH => self.streams.call(request),
            _ => self.calls.call(request),
        }
    }
}
