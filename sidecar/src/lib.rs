//! The proxy beside each service: keeps one identity fresh, wraps every connection in mutual TLS and lets in only
//! the peers on the allow-list.

pub mod access_log;
pub mod admin;
pub mod ca_client;
pub mod call_counts;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection_line;
pub mod credentials;
pub mod ending;
pub mod holder;
pub mod http;
pub mod identity;
pub mod identity_files;
pub mod inbound;
pub mod join_token;
pub mod listen;
pub mod live;
pub mod metrics;
pub mod outbound;
pub mod pending;
pub mod plane;
pub mod policy_file;
pub mod policy_store;
pub mod refusals;
pub mod relay;
pub mod renewal;
pub mod revoked;
pub mod run;
pub mod schedule;
mod share;
pub mod state_dir;
pub mod subscription;
pub mod tls;
pub mod tunnel;
pub mod upstream;
