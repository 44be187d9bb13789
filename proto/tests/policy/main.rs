//! What policy.md says, one claim per test.

mod ask;
mod check;
mod expectations;
mod hostile;
mod names;
mod ports;
mod reference;
mod robust;
mod rules;
mod verdicts;
