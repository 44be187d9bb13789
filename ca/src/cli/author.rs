//! Who changes something, for the record.

use std::os::unix::fs::MetadataExt as _;

/// On whose account a change is put.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Author {
    /// Author of the change, for the audit log [default: the login name, from USER or LOGNAME]
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
}

impl Author {
    /// The name as given, else the login name, else the user's number, as in a container; empty, which the CA refuses,
    /// where not even that is known.
    pub(super) fn name(self) -> String {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let login = || variable("USER").or_else(|| variable("LOGNAME"));
        let number = || std::fs::metadata("/proc/self").ok().map(|own| format!("uid {}", own.uid()));
        self.author.or_else(login).or_else(number).unwrap_or_default()
    }
}
