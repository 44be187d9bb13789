//! Questions about policies, answered for people and as JSON: which line decides, what a change gives and takes, who may
//! call whom, what a policy would have decided about recorded calls, and which rules would allow what was refused. It
//! holds no key, socket, runtime or clock, and nothing of the CA.

pub mod access_log;
pub mod diff;
pub mod explain;
pub mod graph;
mod json;
pub mod replay;
pub mod suggest;
pub mod text;
