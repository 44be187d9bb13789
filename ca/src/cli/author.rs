//! Who changes something, for the record.

/// On whose account a change is put.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Author {
    /// Who does this, for the record [default: the login name]
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
}

impl Author {
    /// The name as given, else the login name; empty, which the CA refuses, where there is neither.
    pub(super) fn name(self) -> String {
        let login = || ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        self.author.or_else(login).unwrap_or_default()
    }
}
