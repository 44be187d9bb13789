//! Clients and servers that others made talk through the pair as they would without it.

mod grpc;
mod websocket;
