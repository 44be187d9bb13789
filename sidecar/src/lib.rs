//! The proxy beside each service: keeps one identity fresh, wraps every connection in mutual TLS and lets in only
//! the peers on the allow-list.

pub mod cli;
pub mod config;
pub mod credentials;
