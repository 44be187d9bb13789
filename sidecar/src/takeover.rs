//! A restart without a refused connection.

mod channel;
mod door;
mod message;
