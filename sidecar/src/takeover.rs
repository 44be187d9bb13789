//! A restart without a refused connection.

mod channel;
mod door;
mod giving;
mod message;
mod sockets;
