//! Clients and servers that others made talk through the pair as they would without it.

mod bodies;
mod curl;
mod foreign;
mod grpc;
mod websocket;
