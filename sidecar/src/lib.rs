//! The proxy beside each service: keeps one identity fresh, wraps every connection in mutual TLS and lets in only
//! the peers on the allow-list.

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
