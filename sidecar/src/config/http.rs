//! `[http]`: limits and timeouts of HTTP.

use std::time::Duration;

use super::raw::RawHttp;
use super::rules::Rules;
use super::{
    EXPANDED_BYTES_PER_PEER_DEFAULT, EXPANDED_BYTES_PER_PEER_MAX, HEADER_BYTES_DEFAULT, HEADER_BYTES_MAX,
    HEADER_TIMEOUT_DEFAULT, HEADERS_DEFAULT, HEADERS_MAX, HTTP2_CONNECTIONS_DEFAULT, HTTP2_CONNECTIONS_MAX,
    IDLE_TIMEOUT_DEFAULT, IDLE_TIMEOUT_MAX, REQUESTS_PER_PEER_DEFAULT, REQUESTS_PER_PEER_MAX,
    STREAM_IDLE_TIMEOUT_DEFAULT, STREAMS_DEFAULT, STREAMS_MAX, TIMEOUT_MAX, TIMEOUT_MIN, URI_BYTES_DEFAULT,
    URI_BYTES_MAX,
};

/// The HTTP version that an inbound's app speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppHttp {
    /// HTTP/2 for gRPC, and for an app that speaks only HTTP/2; HTTP/1.1 otherwise.
    #[default]
    Auto,
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3).
    Http2,
}

/// Limits of `protocol = "http"`, each with a default.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    /// Maximum size of a header block.
    pub header_bytes_max: usize,
    /// Maximum number of fields in a header block.
    pub headers_max: usize,
    /// Maximum size of a request target.
    pub uri_bytes_max: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams_max: usize,
    /// HTTP/2 connections to one address of the app or of an upstream service.
    pub http2_connections_max: usize,
    /// Concurrent requests of one identity, over all its connections to one inbound.
    pub requests_per_peer_max: usize,
    /// Bytes by which HPACK decompression may expand the heads of one identity's concurrent requests.
    pub expanded_bytes_per_peer_max: usize,
    /// From the first to the last byte of a header block.
    pub header_timeout: Duration,
    /// Timeout of a connection without a request.
    pub idle_timeout: Duration,
    /// Timeout of a request without data in either direction.
    pub stream_idle_timeout: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            header_bytes_max: HEADER_BYTES_DEFAULT,
            headers_max: HEADERS_DEFAULT,
            uri_bytes_max: URI_BYTES_DEFAULT,
            streams_max: STREAMS_DEFAULT,
            http2_connections_max: HTTP2_CONNECTIONS_DEFAULT,
            requests_per_peer_max: REQUESTS_PER_PEER_DEFAULT,
            expanded_bytes_per_peer_max: EXPANDED_BYTES_PER_PEER_DEFAULT,
            header_timeout: HEADER_TIMEOUT_DEFAULT,
            idle_timeout: IDLE_TIMEOUT_DEFAULT,
            stream_idle_timeout: STREAM_IDLE_TIMEOUT_DEFAULT,
        }
    }
}

impl Rules<'_> {
    pub(super) fn http(&mut self, raw: RawHttp) -> Http {
        let default = Http::default();
        let header_bytes = self.count("http.header_bytes_max", raw.header_bytes_max, HEADER_BYTES_MAX);
        let headers = self.count("http.headers_max", raw.headers_max, HEADERS_MAX);
        let uri_bytes = self.count("http.uri_bytes_max", raw.uri_bytes_max, URI_BYTES_MAX);
        let streams = self.count("http.streams_max", raw.streams_max, STREAMS_MAX);
        let connections =
            self.count("http.http2_connections_max", raw.http2_connections_max, HTTP2_CONNECTIONS_MAX);
        let requests = raw.requests_per_peer_max;
        let requests = self.count("http.requests_per_peer_max", requests, REQUESTS_PER_PEER_MAX);
        let expanded = raw.expanded_bytes_per_peer_max;
        let expanded = self.count("http.expanded_bytes_per_peer_max", expanded, EXPANDED_BYTES_PER_PEER_MAX);
        let header = self.duration("http.header_timeout", raw.header_timeout, TIMEOUT_MIN..=TIMEOUT_MAX);
        let idle = self.duration("http.idle_timeout", raw.idle_timeout, TIMEOUT_MIN..=IDLE_TIMEOUT_MAX);
        let stream_idle = self.duration(
            "http.stream_idle_timeout",
            raw.stream_idle_timeout,
            TIMEOUT_MIN..=IDLE_TIMEOUT_MAX,
        );
        Http {
            header_bytes_max: header_bytes.unwrap_or(default.header_bytes_max),
            headers_max: headers.unwrap_or(default.headers_max),
            uri_bytes_max: uri_bytes.unwrap_or(default.uri_bytes_max),
            streams_max: streams.unwrap_or(default.streams_max),
            http2_connections_max: connections.unwrap_or(default.http2_connections_max),
            requests_per_peer_max: requests.unwrap_or(default.requests_per_peer_max),
            expanded_bytes_per_peer_max: expanded.unwrap_or(default.expanded_bytes_per_peer_max),
            header_timeout: header.unwrap_or(default.header_timeout),
            idle_timeout: idle.unwrap_or(default.idle_timeout),
            stream_idle_timeout: stream_idle.unwrap_or(default.stream_idle_timeout),
        }
    }
}
