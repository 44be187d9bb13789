//! The sidecar proxy of a service: renews the service's identity, uses mutual TLS for every connection and accepts only
//! the peers that the policy allows.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod error_text;
pub mod identity;
pub mod lifecycle;
pub mod network;
pub mod observability;
pub mod proxy;
