//! `Forwarded` (RFC 7239): keeps addresses, and removes whatever could be taken for an identity.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{FORWARDED, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};

/// Keeps the parts of `Forwarded` that RFC 7239 §4 defines and whose nodes are valid by §6.
pub(super) fn clean(headers: &mut HeaderMap) {
    if !headers.contains_key(FORWARDED) {
        return;
    }
    let cleaned: Vec<_> = headers.get_all(FORWARDED).iter().filter_map(cleaned).collect();
    headers.remove(FORWARDED);
    for value in cleaned {
        headers.append(FORWARDED, value);
    }
}

fn cleaned(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let elements = split(text, ',')?.into_iter().filter_map(|element| {
        let pairs = split(element, ';')?;
        let kept: Vec<_> = pairs.into_iter().map(str::trim).filter(|pair| is_plain(pair)).collect();
        (!kept.is_empty()).then(|| kept.join(";"))
    });
    let elements: Vec<_> = elements.collect();
    if elements.is_empty() { None } else { HeaderValue::try_from(elements.join(", ")).ok() }
}

/// Splits a text outside of quoted strings; `None` if a quote or escape is incomplete.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut rest, mut quoted) = (Vec::new(), text, false);
    if text.contains('\\') {
        return None;
    }
    let mut from = 0;
    for (at, character) in text.char_indices() {
        if character == '"' {
            quoted = !quoted;
        } else if character == separator && !quoted {
            parts.push(text.get(from..at)?);
            from = at + character.len_utf8();
            rest = text.get(from..)?;
        }
    }
    parts.push(rest);
    (!quoted).then_some(parts)
}

/// Whether a parameter is one of RFC 7239 §5 with a valid value.
fn is_plain(pair: &str) -> bool {
    let Some((name, value)) = pair.split_once('=') else { return false };
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    match name.to_ascii_lowercase().as_str() {
        "for" | "by" => is_node(value),
        "host" => Authority::try_from(value).is_ok_and(|host| !host.as_str().contains('@')),
        "proto" => Scheme::try_from(value).is_ok(),
        _ => false,
    }
}

/// RFC 7239 §6: an address, `unknown` or an obfuscated identifier, perhaps with a port.
fn is_node(node: &str) -> bool {
    let is_obfuscated = |text: &str| {
        let rest = text.strip_prefix('_').unwrap_or_default();
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() || is_obfuscated(port);
    if let Some(rest) = node.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_ported = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().is_ok() && is_ported;
    }
    let (name, port) = node.split_once(':').map_or((node, None), |(name, port)| (name, Some(port)));
    let is_name =
        name.parse::<Ipv4Addr>().is_ok() || name.eq_ignore_ascii_case("unknown") || is_obfuscated(name);
    is_name && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_nodes_are_removed_and_addresses_kept() {
        for (sent, left) in [
            (
                "for=192.0.2.43, for=198.51.100.17;by=_hidden;proto=https",
                Some("for=192.0.2.43, for=198.51.100.17;by=_hidden;proto=https"),
            ),
            ("for=\"[2001:db8:cafe::17]:4711\"", Some("for=\"[2001:db8:cafe::17]:4711\"")),
            ("For=\"192.0.2.43:47011\"", Some("For=\"192.0.2.43:47011\"")),
            ("for=unknown;host=shop.example:80", Some("for=unknown;host=shop.example:80")),
            ("for=192.0.2.1;by=\"admin\"", Some("for=192.0.2.1")),
            ("for=orders, for=192.0.2.1", Some("for=192.0.2.1")),
            ("for=192.0.2.1;user=admin", Some("for=192.0.2.1")),
            ("for=orders;by=\"admin\"", None),
            ("for=\"spiffe://shop.example/admin\"", None),
            ("for=\"192.0.2.1", None),
            ("for=\"or\\ders\"", None),
            ("by=spiffe%3A%2F%2Fshop.example%2Fadmin", None),
            ("for=192.0.2.1:admin", None),
            ("for=_", None),
            ("host=admin@shop.example", None),
            ("orders", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED, sent.parse().unwrap());
            clean(&mut headers);
            let found = headers.get(FORWARDED).map(|value| value.to_str().unwrap());
            assert_eq!(found, left, "{sent}");
        }
    }
}
