//! The sidecar's own identity: issued by the CA or read from files, persisted across restarts, and renewed.

pub mod ca_client;
pub mod credentials;
pub mod files;
pub mod join_token;
pub mod renewal;
pub mod schedule;
pub mod state_dir;
mod status;
mod task;
pub mod writer;

pub use status::{IdentityError, IdentityStatus};
pub use task::IdentityTask;
