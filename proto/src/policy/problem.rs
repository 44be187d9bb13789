//! What is wrong with a policy file: each problem with its place, what was found and what would do.

use std::fmt;

/// A file's errors, and its warnings, are counted beyond this many, but no longer kept.
pub const PROBLEMS_MAX: usize = 1_000;

/// One problem of a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file is refused for it.
    pub severity: Severity,
    /// Which rule it breaks.
    pub kind: ProblemKind,
    /// The policy file as it was named.
    pub file: String,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// What was expected and found, without place.
    pub message: String,
    /// What to write or do instead.
    pub suggestion: Option<String>,
    /// The line itself, control characters escaped, long ones cut.
    pub source_line: String,
    /// Where the marks under [`Self::source_line`] begin and how many there are, in characters.
    pub marks: (usize, usize),
}

/// What a problem means for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file works, but a reviewer should know.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The rules a policy file can break; the words are stable, for logs and JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// Not TOML.
    Syntax,
    /// A named bound is exceeded.
    Bound,
    /// A key that means nothing here.
    UnknownKey,
    /// A mandatory key is absent.
    Missing,
    /// A value of another type.
    WrongType,
    /// A value outside the few allowed.
    WrongValue,
    /// A list with nothing in it.
    Empty,
    /// Not a canonical trust domain.
    TrustDomain,
    /// Not a service name.
    ServiceName,
    /// Not an identity.
    Identity,
    /// Two services with one identity.
    SharedIdentity,
    /// A bare word that no service declares.
    UnknownService,
    /// Not a peer.
    Peer,
    /// `/postern/…`.
    Reserved,
    /// A rule for a service of another trust domain.
    ForeignAllow,
    /// A port that the service does not declare.
    UnknownPort,
    /// Not a call.
    Call,
    /// `calls` where none can arrive.
    CallsOnTcp,
    /// A date that is none.
    Expires,
    /// Said twice.
    Duplicate,
    /// A rule that allows nothing any more.
    Expired,
    /// A rule that soon allows nothing.
    Expiring,
    /// A rule without which nothing changes.
    Covered,
    /// A service that no expectation speaks of.
    NoExpectation,
    /// `/**`.
    Everyone,
}

impl ProblemKind {
    /// A stable word for logs, metrics and JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Bound => "bound",
            Self::UnknownKey => "unknown_key",
            Self::Missing => "missing",
            Self::WrongType => "wrong_type",
            Self::WrongValue => "wrong_value",
            Self::Empty => "empty",
            Self::TrustDomain => "trust_domain",
            Self::ServiceName => "service_name",
            Self::Identity => "identity",
            Self::SharedIdentity => "shared_identity",
            Self::UnknownService => "unknown_service",
            Self::Peer => "peer",
            Self::Reserved => "reserved",
            Self::ForeignAllow => "foreign_allow",
            Self::UnknownPort => "unknown_port",
            Self::Call => "call",
            Self::CallsOnTcp => "calls_on_tcp",
            Self::Expires => "expires",
            Self::Duplicate => "duplicate",
            Self::Expired => "expired",
            Self::Expiring => "expiring",
            Self::Covered => "covered",
            Self::NoExpectation => "no_expectation",
            Self::Everyone => "everyone",
        }
    }

    /// Whether the file is refused for it.
    pub fn severity(self) -> Severity {
        match self {
            Self::Expired | Self::Expiring | Self::Covered | Self::NoExpectation | Self::Everyone => {
                Severity::Warning
            }
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, .. } = self;
        let file = file.escape_debug();
        write!(f, "{file}:{line}:{column}: {}: {message}", self.severity.as_str())?;
        if !self.source_line.is_empty() {
            let (before, marks) = self.marks;
            write!(f, "\n    {}\n    {:before$}{:^<marks$}", self.source_line, "", "")?;
        }
        match &self.suggestion {
            Some(suggestion) => write!(f, "\n    {suggestion}"),
            None => Ok(()),
        }
    }
}
