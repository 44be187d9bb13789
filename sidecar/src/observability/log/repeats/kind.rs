//! The kind of a log line: its callsite and the fields that identify the peer and the reason.

use std::fmt::{Debug, Write as _};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};

use tracing::Event;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};

/// The tracing target of reports, which are not limited.
pub(super) const REPORT_TARGET: &str = "postern_sidecar::log::report";

/// Fields that belong to the kind: the parties and the stable reason code.
const KIND_FIELDS: [&str; 9] =
    ["direction", "from", "peer", "to", "service", "port", "reason", "code", "name"];
/// Fields that number lines and are ignored in comparisons.
const NUMBERING_FIELDS: [&str; 2] = ["connection", "instance"];
/// A text longer than this is not treated as a name.
const NAME_BYTES_MAX: usize = 2_048;

/// The common part of the lines of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LineKind {
    callsite: Identifier,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl LineKind {
    /// The value of a field of this kind.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Whether the lines are about a peer with an identity.
    pub(super) fn is_identified(&self) -> bool {
        ["from", "peer"].into_iter().filter_map(|name| self.field(name)).any(|id| id.starts_with("spiffe://"))
    }

    /// The kind per callsite that is used when the table is full.
    pub(super) fn overflow(self) -> Self {
        Self { fields: Vec::new(), ..self }
    }
}

/// One line, without its numbering fields.
#[derive(Debug, Default)]
pub(super) struct LogLine {
    text: String,
    hash: u64,
}

impl LogLine {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// Extracts kind and line of an event.
pub(super) fn classify(event: &Event<'_>) -> (LineKind, LogLine) {
    let mut visitor = FieldVisitor::default();
    event.record(&mut visitor);
    let FieldVisitor { message, fields, text, compared } = visitor;
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((&fields, &compared));
    (LineKind { callsite: event.metadata().callsite(), message, fields }, LogLine { text, hash })
}

#[derive(Debug, Default)]
struct FieldVisitor {
    message: String,
    fields: Vec<(&'static str, String)>,
    /// All fields, as text.
    text: String,
    /// The values in which two distinct lines of one kind differ.
    compared: String,
}

impl Visit for FieldVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        let name = field.name();
        if NUMBERING_FIELDS.contains(&name) {
            return;
        }
        let space = if self.text.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _infallible = write!(self.text, "{space}{name}={value}");
        if is_address(value) {
            return;
        }
        let names_kind = KIND_FIELDS.contains(&name) && value.len() <= NAME_BYTES_MAX;
        if names_kind && (!matches!(name, "reason" | "code") || is_stable_word(value)) {
            self.fields.push((name, value.to_owned()));
        } else {
            let _infallible = write!(self.compared, "{name}={value};");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.record_str(field, &format!("{value:?}")),
        }
    }
}

/// Whether the text is an address; lines that differ only in the client's address are repeats.
fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok()
}

fn is_stable_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
