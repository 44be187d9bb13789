//! Names: SPIFFE IDs, patterns of them, and join tokens.

use postern_proto::identity::{IdPattern, SPIFFE_ID_BYTES_MAX, SpiffeId, TrustDomain};
use postern_proto::join_token::JoinToken;

/// What is canonical reads back as itself, and is bounded.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = SpiffeId::parse(text) {
        assert!(id.as_str().len() <= SPIFFE_ID_BYTES_MAX);
        assert_eq!(SpiffeId::parse_canonical(id.as_str()).as_ref(), Ok(&id));
        if !id.path().is_empty() {
            assert_eq!(SpiffeId::from_parts(id.trust_domain().clone(), id.path()).as_ref(), Ok(&id));
        }
    }
    if let Ok(id) = SpiffeId::parse_canonical(text) {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(pattern) = TrustDomain::new("shop.example").map(|own| IdPattern::new(own, text)) {
        drop(pattern.map(|pattern| pattern.to_string()));
    }
}

/// What is read is written as it was.
pub fn join_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = JoinToken::parse(text) {
        let again = JoinToken::parse(&token.reveal()).unwrap();
        assert_eq!((again.id(), again.pin(), again.secret()), (token.id(), token.pin(), token.secret()));
        assert_eq!(token.reveal().as_str(), text.trim());
    }
}
