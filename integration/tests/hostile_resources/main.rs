//! What surrounds a sidecar goes wrong: its app, its CA, its files, its descriptors, the readers of what it carries.
//! Each failure is told, ends as what it was, and is over without a restart once its cause is.

mod backends;
mod bad_ca;
mod descriptors;
mod files;
mod slots;
