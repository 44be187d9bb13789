//! W3C Trace Context: gives the access log entries of both sides of a connection the same trace ID.

use ring::rand::{SecureRandom as _, SystemRandom};

/// A `traceparent` (§3.2) of a new trace; `None` without a random source. Its sampled flag is not set, because no spans
/// are recorded.
pub fn begin() -> Option<String> {
    let (mut trace, mut parent) = ([0; 16], [0; 8]);
    let random = SystemRandom::new();
    random.fill(&mut trace).and_then(|()| random.fill(&mut parent)).ok()?;
    Some(format!("00-{:032x}-{:016x}-00", u128::from_be_bytes(trace), u64::from_be_bytes(parent)))
}

/// The trace ID of a `traceparent` (§3.2.2.3).
pub fn id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trace_is_another_and_its_id_is_found() {
        let (one, other) = (begin().unwrap(), begin().unwrap());
        assert_eq!(one.len(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".len());
        assert_eq!(id(&one).unwrap(), one[3..35]);
        assert_ne!(id(&one), id(&other));
    }

    #[test]
    fn what_is_no_traceparent_has_no_trace() {
        for text in ["", "-", "00", "00-4bf9-00f0-01", "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f0-01"] {
            assert_eq!(id(text), None, "{text:?}");
        }
    }
}
