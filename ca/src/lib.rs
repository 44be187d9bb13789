//! A small certificate authority: attests a workload, decides which SPIFFE ID it may hold, and issues a certificate
//! that lives about an hour.

pub mod api;
pub mod attest;
pub mod authority;
pub mod cli;
pub mod config;
pub mod issue;
pub mod rates;
pub mod registry;
pub mod serve;
pub mod store;
pub mod subscriptions;
