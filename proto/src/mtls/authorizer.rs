//! Which peers a party accepts, once their certificates are verified.

use std::fmt;

use thiserror::Error;

use crate::identity::{SpiffeId, VerifiedSvid};

/// Whom a party lets in, once the certificate is believed.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Admits the peer, or says why not; the handshake then ends with the alert `access_denied`.
    fn authorize(&self, peer: &VerifiedSvid) -> Result<(), Denial>;
}

/// Why a party with a good certificate is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct Denial {
    /// A stable word for logs, metrics and JSON.
    pub code: &'static str,
    /// The whole reason, in words.
    pub detail: String,
}

/// The code of a denial whose reason is that the peer's identity is revoked: the peer is told by its TLS alert.
pub const REVOKED: &str = "revoked";
/// The code of a [`Denial`] that says nothing about the peer's rights: it has as many connections as one may have.
pub const OVER_LIMIT: &str = "connections_per_peer_max";

/// Admits exactly one identity: what an outbound connection demands of its server.
#[derive(Debug, Clone)]
pub struct AuthorizeId(pub SpiffeId);

impl Authorizer for AuthorizeId {
    fn authorize(&self, peer: &VerifiedSvid) -> Result<(), Denial> {
        if *peer.id() == self.0 {
            return Ok(());
        }
        let detail = format!("expected {}, found {}", self.0, peer.id());
        Err(Denial { code: "wrong_identity", detail })
    }
}

/// Admits every identity whose certificate is believed; what it may do is decided later.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizeAny;

impl Authorizer for AuthorizeAny {
    fn authorize(&self, _: &VerifiedSvid) -> Result<(), Denial> {
        Ok(())
    }
}
