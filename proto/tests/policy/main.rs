//! What policy.md says, one claim per test.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test says no, also in what its tests share"
)]

mod ask;
mod check;
mod diff;
mod diff_reference;
mod expectations;
mod hostile;
mod names;
mod ports;
mod reference;
mod robust;
mod rules;
mod slices;
mod suggestions;
mod verdicts;
