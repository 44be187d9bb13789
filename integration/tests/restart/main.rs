//! A restart without a refused connection: a new process takes over the listeners while the old one drains.

mod under_load;
