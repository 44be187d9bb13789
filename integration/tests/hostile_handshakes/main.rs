//! Hostile handshakes and TLS records before the real sidecar: refused with a reason that is logged, never held for
//! more than a hundred times what was sent, never seen by the app, and no neighbour notices.

#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

mod door;
mod hello;
mod raw;

mod greetings;
mod leaving;
mod records;
mod resumption;
mod stalls;
mod versions;
mod wrong_server;
