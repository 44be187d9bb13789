//! Why a configuration file cannot be used.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::ConfigProblem;

/// A configuration file has at most this many bytes.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file system refuses.
    #[error("{}: cannot be read", file.display())]
    Unreadable {
        /// The file as it was named.
        file: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// More than [`CONFIG_BYTES_MAX`].
    #[error("{}: has more than the {CONFIG_BYTES_MAX} bytes allowed", file.display())]
    TooLarge {
        /// The file as it was named.
        file: PathBuf,
    },
    /// TOML is UTF-8.
    #[error("{}: is not UTF-8 text", file.display())]
    NotText {
        /// The file as it was named.
        file: PathBuf,
    },
    /// What the file says is not allowed.
    #[error("{}", Listed { file, problems })]
    Invalid {
        /// The file as it was named.
        file: PathBuf,
        /// In the order of the file.
        problems: Vec<ConfigProblem>,
    },
}

impl ConfigError {
    /// The file was read, and has these problems.
    pub fn invalid(file: &Path, mut problems: Vec<ConfigProblem>) -> Self {
        problems.sort_by_key(|problem| problem.line);
        Self::Invalid { file: file.to_owned(), problems }
    }

    /// One message for each problem, complete in itself: file, line, key, value, rule.
    pub fn messages(&self) -> Vec<String> {
        match self {
            Self::Invalid { .. } => self.to_string().lines().map(str::to_owned).collect(),
            Self::Unreadable { cause, .. } => vec![escaped(&format!("{self}: {cause}"))],
            Self::TooLarge { .. } | Self::NotText { .. } => vec![escaped(&self.to_string())],
        }
    }
}

fn escaped(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escape).collect()
}

struct Listed<'a> {
    file: &'a Path,
    problems: &'a [ConfigProblem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let new_line = if at == 0 { "" } else { "\n" };
            write!(f, "{new_line}{}:{}: {problem}", self.file.display(), problem.line)?;
        }
        Ok(())
    }
}

/// Reads the file, bounded.
pub fn read(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable { file: file.to_owned(), cause };
    let mut bytes = Vec::new();
    let limit = u64::try_from(CONFIG_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file).map_err(unreadable)?.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge { file: file.to_owned() });
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::NotText { file: file.to_owned() })
}
