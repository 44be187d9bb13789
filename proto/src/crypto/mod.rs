//! The only place that names a crypto provider: the algorithms of TLS, certificates and records.

mod certified_key;
mod provider;
mod record_cipher;
mod signature;

pub(crate) use certified_key::certified_key;
pub use provider::{provider, signature_algorithms};
pub use record_cipher::RECORD_TAG_BYTES;
pub(crate) use record_cipher::{Aead, NONCE_BYTES, RecordCipher};
pub use signature::HANDSHAKE_SCHEMES;
pub(crate) use signature::verify_handshake_signature;
