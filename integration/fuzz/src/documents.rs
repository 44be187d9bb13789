//! Files and messages of text, JSON and protobuf.

use std::path::Path;

use postern_proto::policy::{Call, Policy, Port, Protocol, check, decide, may_connect};
use postern_proto::wire::v1::PolicySlice;
use postern_sidecar::config::Config;
use postern_sidecar::proxy::tunnel::Note;
use prost::Message as _;
use time::OffsetDateTime;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-12-01 12:00 UTC);

/// Asks everything of everybody whom the policy names.
fn ask(policy: &Policy) {
    let services = policy.services();
    for to in services.iter().take(4) {
        for from in services.iter().take(4) {
            for protocol in [Protocol::Tcp, Protocol::Http] {
                let port = Port { name: "api", protocol };
                let call = Call { method: "GET", path: "/a/b" };
                let connects = may_connect(policy, from.identity(), to.identity(), port, NOW);
                let decision = decide(policy, from.identity(), to.identity(), port, Some(call), NOW);
                // Whose call is allowed may connect.
                assert!(!decision.lets_pass() || connects.lets_pass(), "{}", decision.reason());
            }
        }
    }
}

/// A policy that is read can be asked, checked, cut into slices, and read back from them.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(check("policy.toml", text, NOW, 30));
    match Policy::parse("policy.toml", text) {
        Ok(policy) => {
            ask(&policy);
            for service in policy.services().iter().take(4) {
                let slice = policy.slice_for(service.identity(), &[service.name()], 1);
                let slice = Policy::from_slice(slice).unwrap();
                ask(&slice);
            }
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
}

/// A slice of a CA that lies.
pub fn slice(data: &[u8]) {
    let Ok(slice) = PolicySlice::decode(data) else { return };
    if let Ok(policy) = Policy::from_slice(slice) {
        ask(&policy);
    }
}

/// An operator's file: whatever it is, it is refused by place, or is a configuration.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Config::parse(Path::new("/tmp/sidecar.toml"), text) {
        assert!(!error.to_string().is_empty());
    }
}

/// The words of a peer, for logs.
pub fn problem_document(data: &[u8]) {
    let note = Note::read(data);
    assert!(!note.reason().is_empty());
    // Escaped by whoever shows it, and never longer than what came.
    assert!(note.detail().len() <= data.len().max(64));
}

/// A message is written as it was read.
pub fn takeover_message(data: &[u8]) {
    if let Some(written) = postern_sidecar::lifecycle::handover::fuzzing::rewritten(data) {
        assert_eq!(postern_sidecar::lifecycle::handover::fuzzing::rewritten(&written).unwrap(), written);
    }
}
