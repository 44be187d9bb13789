//! Header fields: hop-by-hop fields, fields that claim an identity, and the client certificate field for the app.

use http::header::{
    CONNECTION, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use postern_proto::identity::SpiffeId;

use super::forwarded;
use crate::observability::trace;

/// The client certificate field that the app receives, in Envoy's form.
pub(super) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Fields in which a client could claim an identity: Envoy's, and those of RFC 9440 §2.
const CLAIMS: [&str; 3] = ["x-forwarded-client-cert", "client-cert", "client-cert-chain"];

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Hop-by-hop fields (RFC 9110 §7.6.1).
const ONE_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
];

/// Fields that `Connection` cannot nominate: removing them would change the message.
const ESSENTIAL: [HeaderName; 2] = [HOST, http::header::CONTENT_LENGTH];

/// Whether the client accepts trailers, which gRPC needs forwarded (gRPC over HTTP/2, `Te`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trailers {
    Wanted,
    NotNamed,
}

/// Removes hop-by-hop fields, and those that `Connection` nominates.
pub(super) fn remove_hop(headers: &mut HeaderMap) -> Trailers {
    let trailers = match headers.get(TE) {
        Some(te) if tokens(te).any(|token| token.eq_ignore_ascii_case("trailers")) => Trailers::Wanted,
        _ => Trailers::NotNamed,
    };
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<_> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !ESSENTIAL.contains(name))
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &ONE_HOP {
        headers.remove(name);
    }
    trailers
}

/// The protocols of an upgrade request (RFC 9110 §7.8). HTTP/2 is excluded: RFC 9113 §3.1 has removed that upgrade,
/// and its requests would bypass authorization.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case("upgrade"));
    let http = |token: &&str| {
        let name = token.split('/').next().unwrap_or_default();
        ["h2c", "h2", "http", "tls"].iter().any(|http| name.eq_ignore_ascii_case(http))
    };
    let offered = headers.get_all(UPGRADE).iter().flat_map(tokens).filter(|token| !http(token));
    let offered: Vec<_> = offered.filter(|_| asks).collect();
    if offered.is_empty() { None } else { HeaderValue::try_from(offered.join(", ")).ok() }
}

/// The protocol that a response switched to, if it was offered. A response that names none has chosen the only one.
pub(super) fn switched_to(offered: &HeaderValue, answer: &HeaderMap) -> Option<HeaderValue> {
    let named: Vec<_> = answer.get_all(UPGRADE).iter().flat_map(tokens).collect();
    if named.is_empty() {
        return (tokens(offered).count() == 1).then(|| offered.clone());
    }
    let is_offered = |name: &&str| tokens(offered).any(|one| one.eq_ignore_ascii_case(name));
    if named.iter().all(is_offered) { HeaderValue::try_from(named.join(", ")).ok() } else { None }
}

/// Removes fields that claim an identity, in any spelling: only the handshake identifies the client.
pub(super) fn remove_claims(headers: &mut HeaderMap) {
    let claims: Vec<_> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    forwarded::clean(headers);
}

/// Backends that convert names to variables (CGI, RFC 3875 §4.1.18) treat `_` like `-`, and so some other characters.
fn is_claim(name: &str) -> bool {
    let same = |a: u8, b: u8| a == b || (b == b'-' && !a.is_ascii_alphanumeric());
    CLAIMS.iter().any(|claim| {
        claim.len() == name.len()
            && name.bytes().zip(claim.bytes()).all(|(a, b)| same(a.to_ascii_lowercase(), b))
    })
}

/// Removes trailers that frame, route or claim an identity (RFC 9110 §6.5.1).
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_hop(trailers);
    remove_claims(trailers);
    for name in [HOST, http::header::CONTENT_LENGTH, TRAILER, FORWARDED] {
        trailers.remove(name);
    }
}

/// `By`, `Hash` and `URI`, as Envoy writes them. A SPIFFE ID needs no quotes there.
pub(super) fn client_cert(own: &SpiffeId, leaf_sha256: &str, peer: &SpiffeId) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("By={own};Hash={leaf_sha256};URI={peer}")).ok()
}

/// The trace id of a request (W3C Trace Context §3.2).
pub(super) fn trace_id(headers: &HeaderMap) -> Option<String> {
    trace::id(headers.get("traceparent")?.to_str().ok()?)
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn identity_claims_are_removed_in_any_spelling() {
        let mut all = headers(&[
            ("x-forwarded-client-cert", "URI=spiffe://shop.example/admin"),
            ("X_Forwarded_Client_Cert", "URI=spiffe://shop.example/admin"),
            ("x-forwarded_client-cert", "a"),
            ("x.forwarded.client.cert", "a"),
            ("Client-Cert", ":MIIB:"),
            ("client_cert", ":MIIB:"),
            ("CLIENT-CERT-CHAIN", ":MIIB:"),
            ("client_cert_chain", ":MIIB:"),
            ("x-client-cert", "stays"),
            ("traceparent", "stays"),
        ]);
        remove_claims(&mut all);
        let mut left: Vec<_> = all.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["traceparent", "x-client-cert"]);
    }

    #[test]
    fn hop_by_hop_and_nominated_fields_are_removed_but_never_the_host() {
        let mut all = headers(&[
            ("connection", "keep-alive, X-Once, host"),
            ("connection", "content-length"),
            ("keep-alive", "timeout=5"),
            ("x-once", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "payments"),
            ("content-length", "5"),
            ("accept", "*/*"),
        ]);
        assert_eq!(remove_hop(&mut all), Trailers::Wanted);
        let mut left: Vec<_> = all.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }

    #[test]
    fn a_protocol_that_is_not_http_is_switched_to_if_it_was_offered() {
        let asked = |lines: &[(&str, &str)]| upgrade(&headers(lines));
        let forwarded = |lines: &[(&str, &str)], offer: &str| assert_eq!(asked(lines).unwrap(), offer);
        forwarded(&[("connection", "Upgrade"), ("upgrade", "websocket")], "websocket");
        forwarded(&[("connection", "keep-alive, upgrade"), ("upgrade", "foo/2")], "foo/2");
        forwarded(&[("connection", "upgrade"), ("upgrade", "websocket, foo")], "websocket, foo");
        forwarded(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")], "websocket");
        forwarded(&[("connection", "upgrade"), ("upgrade", "h2c, websocket, TLS/1.2")], "websocket");
        for nothing in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "H2C")],
            &[("connection", "upgrade"), ("upgrade", "HTTP/2.0")],
            &[("connection", "upgrade"), ("upgrade", "TLS/1.2")],
            &[("connection", "upgrade"), ("upgrade", ",")],
        ] {
            assert_eq!(asked(nothing), None, "{nothing:?}");
        }
        let switched = |offered: &'static str, lines: &[(&str, &str)]| {
            switched_to(&HeaderValue::from_static(offered), &headers(lines))
        };
        assert_eq!(switched("websocket, foo", &[("upgrade", "WebSocket")]).unwrap(), "WebSocket");
        assert_eq!(switched("websocket", &[]).unwrap(), "websocket");
        assert_eq!(switched("websocket, foo", &[]), None);
        assert_eq!(switched("websocket, foo", &[("upgrade", "h2c")]), None);
    }
}
