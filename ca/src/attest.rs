//! Who asks, and how it was proved.

use postern_proto::identity::VerifiedSvid;
use postern_proto::join_token::JoinToken;
use ring::digest;
use time::OffsetDateTime;

/// How a workload proved who it is.
#[derive(Debug, Clone)]
pub enum Attestation {
    /// It holds a join token. Whether that is good, and for whom, the registry knows.
    JoinToken { token: JoinToken, hash: [u8; 32] },
    /// It proved in the TLS handshake that it holds the key of this certificate.
    Svid { svid: VerifiedSvid, serial: String, expired: bool },
}

impl Attestation {
    pub fn by_token(token: JoinToken) -> Self {
        let hash = hash_of(token.secret());
        Self::JoinToken { token, hash }
    }

    pub fn by_svid(svid: VerifiedSvid, now: OffsetDateTime) -> Self {
        let serial = svid.serial();
        let serial = crate::authority::serial_hex(serial.strip_prefix(&[0]).unwrap_or(serial));
        let expired = now.unix_timestamp() > svid.not_after().unix_timestamp();
        Self::Svid { svid, serial, expired }
    }

    /// As the issuance record has it: never a secret.
    pub fn recorded(&self) -> String {
        match self {
            Self::JoinToken { hash, .. } => {
                let prefix: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                format!("join_token:{prefix}")
            }
            Self::Svid { serial, .. } => format!("svid:{serial}"),
        }
    }
}

/// What is kept of a token's secret.
pub fn hash_of(secret: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
    hash
}
