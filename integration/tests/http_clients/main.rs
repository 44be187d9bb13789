//! Clients and servers that others made talk through the pair as they would without it.

mod curl;
mod grpc;
mod websocket;
