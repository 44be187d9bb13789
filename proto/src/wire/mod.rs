//! The generated messages of `proto/schema/`, and their conversions to and from the types that cannot be wrong.

mod read_slice;
mod slice;

pub use read_slice::SliceError;
pub use slice::SLICE_BYTES_MAX;

/// Package `postern.v1`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code is not ours to polish"
)]
pub mod v1 {
    include!("generated/postern.v1.rs");
}
