//! What a sidecar says of itself when it subscribes, within bounds.

use std::sync::Arc;

use postern_proto::wire::v1::SidecarHello;
use thiserror::Error;

/// A hello names at most so many services.
pub const SERVICES_MAX: usize = 1_000;
/// And at most so many inbounds.
pub const INBOUNDS_MAX: usize = 256;
const INSTANCE_BYTES_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 128;

/// A sidecar that may be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Tells it apart from others of its identity.
    pub instance: Arc<str>,
    /// The program's version.
    pub version: String,
    /// Services it calls by name, in order and each once.
    pub services: Arc<[String]>,
    /// Where it has a policy file of its own.
    pub own_policy_digest: Option<String>,
}

/// Why a hello is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HelloError {
    #[error("a hello's instance has 1 to {INSTANCE_BYTES_MAX} visible ASCII characters, not {found:?}")]
    Instance { found: String },
    #[error("a hello's {field} has at most {WORD_BYTES_MAX} bytes, not {found}")]
    Long { field: &'static str, found: usize },
    #[error("a hello has at most {most} {field}, not {found}")]
    Many { field: &'static str, most: usize, found: usize },
}

impl TryFrom<SidecarHello> for Hello {
    type Error = HelloError;

    fn try_from(said: SidecarHello) -> Result<Self, HelloError> {
        let SidecarHello { instance, version, inbounds, mut services, own_policy_digest } = said;
        if !(1..=INSTANCE_BYTES_MAX).contains(&instance.len())
            || !instance.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let found = instance.chars().take(INSTANCE_BYTES_MAX).collect();
            return Err(HelloError::Instance { found });
        }
        for (field, most, found) in
            [("services", SERVICES_MAX, services.len()), ("inbounds", INBOUNDS_MAX, inbounds.len())]
        {
            if found > most {
                return Err(HelloError::Many { field, most, found });
            }
        }
        let words = services.iter().map(|service| ("service", service));
        for (field, word) in words.chain([("version", &version), ("policy digest", &own_policy_digest)]) {
            if word.len() > WORD_BYTES_MAX {
                return Err(HelloError::Long { field, found: word.len() });
            }
        }
        services.sort_unstable();
        services.dedup();
        let own_policy_digest = Some(own_policy_digest).filter(|digest| !digest.is_empty());
        Ok(Self { instance: instance.into(), version, services: services.into(), own_policy_digest })
    }
}

#[cfg(test)]
mod tests {
    use postern_proto::wire::v1::SidecarPort;

    use super::*;

    fn hello() -> SidecarHello {
        SidecarHello { instance: "one".to_owned(), ..SidecarHello::default() }
    }

    #[test]
    fn services_are_asked_for_once_and_in_order() {
        let services = ["b", "a", "b"].map(str::to_owned).to_vec();
        let read = Hello::try_from(SidecarHello { services, ..hello() }).unwrap();
        assert_eq!(*read.services, ["a", "b"]);
        assert_eq!(read.own_policy_digest, None);
    }

    #[test]
    fn what_is_too_long_or_too_much_is_refused_by_name() {
        let long = "x".repeat(WORD_BYTES_MAX + 1);
        for (said, needle) in [
            (SidecarHello { instance: String::new(), ..hello() }, "instance"),
            (SidecarHello { instance: "a\nb".to_owned(), ..hello() }, "\"a\\nb\""),
            (SidecarHello { instance: long.clone(), ..hello() }, "instance"),
            (SidecarHello { version: long.clone(), ..hello() }, "version"),
            (SidecarHello { own_policy_digest: long.clone(), ..hello() }, "digest"),
            (SidecarHello { services: vec![long], ..hello() }, "service"),
            (SidecarHello { services: vec![String::new(); SERVICES_MAX + 1], ..hello() }, "services"),
            (
                SidecarHello { inbounds: vec![SidecarPort::default(); INBOUNDS_MAX + 1], ..hello() },
                "inbounds",
            ),
        ] {
            let error = Hello::try_from(said).unwrap_err().to_string();
            assert!(error.contains(needle), "{needle} is missing in {error}");
        }
    }
}
