//! The proxy beside each service: keeps one identity fresh, wraps every connection in mutual TLS and lets in only
//! the peers on the allow-list.

pub mod ca_client;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod holder;
pub mod identity;
pub mod identity_files;
pub mod join_token;
pub mod renewal;
pub mod schedule;
pub mod state_dir;
