//! The hello message with which a sidecar describes itself when it subscribes.

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_proto::wire::v1::{SidecarHello, SidecarPort};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::{Inbound, Target};
use crate::control::ControlState;

/// Sent instead of a digest if the local policy file has not been read yet.
const NOT_READ_YET: &str = "none";

pub(super) fn hello(control: &ControlState, instance: &str) -> SidecarHello {
    let port = |inbound: &Inbound| SidecarPort {
        name: inbound.name.clone(),
        protocol: inbound.protocol.as_str().to_owned(),
    };
    let outbounds = control.config.outbounds.iter();
    let services: BTreeSet<String> = outbounds
        .filter_map(|outbound| match &outbound.target {
            Target::Service(name) => Some(name.clone()),
            Target::Id(_) => None,
        })
        .collect();
    let own_digest = control.policy.current().map(|policy| policy.digest().to_owned());
    let own_policy_digest = match control.config.policy_file {
        Some(_) => own_digest.unwrap_or_else(|| NOT_READ_YET.to_owned()),
        None => String::new(),
    };
    SidecarHello {
        instance: instance.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        inbounds: control.config.inbounds.iter().map(port).collect(),
        services: services.into_iter().collect(),
        own_policy_digest,
    }
}

/// A random identifier of this process, which distinguishes it from others with the same identity.
pub(super) fn instance(random: &SystemRandom) -> Arc<str> {
    let mut bytes = [0; 16];
    // Without a random source, all zeros: processes then cannot be distinguished, with no other effect.
    let _filled = random.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}
