//! The own identity: obtained from the CA or from files, kept over a restart, renewed in time.

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
