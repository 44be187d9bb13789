//! What makes two log lines one kind: where in the code they are written, and about whom.

use std::fmt::{Debug, Write as _};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};

use tracing::Event;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};

/// The target of reports, which are not limited themselves.
pub(super) const REPORT_TARGET: &str = "postern_sidecar::log::report";

/// Fields that say who is concerned, and the stable word why.
const KIND_FIELDS: [&str; 9] =
    ["direction", "from", "peer", "to", "service", "port", "reason", "code", "name"];
/// Fields that differ from line to line of the same kind.
const NUMBERING_FIELDS: [&str; 2] = ["connection", "instance"];
/// A text longer than this is no name.
const NAME_BYTES_MAX: usize = 2_048;

/// What lines of one kind have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    callsite: Identifier,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Kind {
    /// The value of a field, as all lines of this kind have it.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Whether it is about a peer that has shown an identity.
    pub(super) fn is_identified(&self) -> bool {
        ["from", "peer"].into_iter().filter_map(|name| self.field(name)).any(|id| id.starts_with("spiffe://"))
    }

    /// The kind of lines for whose own kind there is no room.
    pub(super) fn overflow(self) -> Self {
        Self { fields: Vec::new(), ..self }
    }
}

/// One line, without what numbers it.
#[derive(Debug, Default)]
pub(super) struct Line {
    text: String,
    hash: u64,
}

impl Line {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// Reads a line that is about to be written.
pub(super) fn of(event: &Event<'_>) -> (Kind, Line) {
    let mut reader = Reader::default();
    event.record(&mut reader);
    let Reader { message, fields, text, compared } = reader;
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((&fields, &compared));
    (Kind { callsite: event.metadata().callsite(), message, fields }, Line { text, hash })
}

#[derive(Debug, Default)]
struct Reader {
    message: String,
    fields: Vec<(&'static str, String)>,
    /// All fields, for people.
    text: String,
    /// What two lines of one kind may differ in, if they say something different.
    compared: String,
}

impl Visit for Reader {
    fn record_str(&mut self, field: &Field, value: &str) {
        let name = field.name();
        if NUMBERING_FIELDS.contains(&name) {
            return;
        }
        let space = if self.text.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _always_ok = write!(self.text, "{space}{name}={value}");
        if is_address(value) {
            return;
        }
        let names_kind = KIND_FIELDS.contains(&name) && value.len() <= NAME_BYTES_MAX;
        if names_kind && (!matches!(name, "reason" | "code") || is_stable_word(value)) {
            self.fields.push((name, value.to_owned()));
        } else {
            let _always_ok = write!(self.compared, "{name}={value};");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.record_str(field, &format!("{value:?}")),
        }
    }
}

/// The address and port from which a stranger calls do not make a line another.
fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok()
}

fn is_stable_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
