//! The generated messages of `proto/schema/`, and their conversions to and from the types that cannot be wrong.

/// Package `postern.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code is not ours to polish")]
pub mod v1 {
    include!("generated/postern.v1.rs");
}
