//! The control plane client: policy and revocations from the CA's stream or a file, and reports of denied calls.

pub mod call_counts;
pub mod policy_file;
pub mod policy_store;
pub mod revocations;
mod state;
pub mod subscription;

pub use state::{ControlState, UNENFORCEABLE_TOLD_MAX, denied};
