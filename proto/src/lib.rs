//! The contract that Postern's two programs share: what an identity is, when a certificate is believed, who may
//! call whom, how TLS is set up and which messages travel. It holds no runtime, socket, file or clock.

pub mod authenticator;
pub mod crypto;
pub mod identity;
pub mod join_token;
pub mod mtls;
pub mod policy;
mod segments;
pub mod spelling;
pub mod wire;
