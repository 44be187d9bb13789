//! A restart without a refused connection: a new process takes over the listeners while the old one drains.

mod changed;
mod failing;
mod fixture;
mod foreign;
mod old_ends;
mod under_load;
