//! Exported authenticators (RFC 9261): either side of a TLS 1.3 connection proves, at any time and on request, that
//! it holds a certificate's key, in a proof that is good on this connection and for this request alone.

mod answer;
mod extension;
mod judge;
mod keys;
mod messages;
mod reader;
mod request;

pub use answer::{AuthenticateError, authenticate};
pub use extension::ExtensionType;
pub use judge::{AnotherIdentity, AuthenticatorError, Expected, follows, judge};
pub use reader::DecodeError;
pub use request::{CONTEXT_BYTES, REQUEST_BYTES_MAX, Request, RequestError};

use crate::identity::{CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX};

/// An authenticator has at most this many bytes: the longest chain and signature with all that stands around them.
pub const AUTHENTICATOR_BYTES_MAX: usize = CERTIFICATE_BYTES_MAX + VERIFY_BYTES_MAX + FINISHED_BYTES_MAX;

/// Type and length of a handshake message.
const HEADER_BYTES: usize = 4;
/// Lengths of cert_data and extensions.
const ENTRY_BYTES: usize = 5;
const CERTIFICATE_BYTES_MAX: usize =
    HEADER_BYTES + 1 + CONTEXT_BYTES + 3 + CHAIN_CERTIFICATES_MAX * ENTRY_BYTES + CHAIN_BYTES_MAX;
/// RSA of 8,192 bits, the longest key that is accepted, signs with so many bytes.
const SIGNATURE_BYTES_MAX: usize = 1024;
const VERIFY_BYTES_MAX: usize = HEADER_BYTES + 2 + 2 + SIGNATURE_BYTES_MAX;
/// SHA-384.
const FINISHED_BYTES_MAX: usize = HEADER_BYTES + 48;
