//! Reading the join token. It is read again at each attempt, because an operator may replace it at any time.

use std::io;
use std::path::{Path, PathBuf};

use postern_proto::join_token::{JOIN_TOKEN_BYTES_MAX, JoinToken, JoinTokenError};
use ring::digest;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use crate::config::JoinTokenSource;

/// A join token with the fingerprint of its text, which identifies a token that has already been used.
#[derive(Debug)]
pub struct LoadedJoinToken {
    pub token: JoinToken,
    pub fingerprint: TokenFingerprint,
}

/// SHA-256 of the token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenFingerprint([u8; 32]);

/// Reads the current token.
pub async fn read(source: &JoinTokenSource) -> Result<LoadedJoinToken, JoinTokenReadError> {
    let text = match source {
        JoinTokenSource::File(file) => read_file(file).await?,
        JoinTokenSource::Env(name) => read_env(name)?,
    };
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, text.trim().as_bytes()).as_ref());
    Ok(LoadedJoinToken { token: JoinToken::parse(&text)?, fingerprint: TokenFingerprint(fingerprint) })
}

async fn read_file(file: &Path) -> Result<Zeroizing<String>, JoinTokenReadError> {
    let unreadable = |cause| JoinTokenReadError::Unreadable { file: file.to_owned(), cause };
    // The capacity is allocated up front: growing the buffer would leave a copy of the token in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    let mut opened = File::open(file).await.map_err(unreadable)?.take(FILE_BYTES_MAX as u64 + 1);
    opened.read_to_end(&mut bytes).await.map_err(unreadable)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| JoinTokenReadError::NotText { file: file.to_owned() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_env(name: &str) -> Result<Zeroizing<String>, JoinTokenReadError> {
    let value = std::env::var(name).map_err(|_| JoinTokenReadError::Unset { name: name.to_owned() })?;
    Ok(Zeroizing::new(value))
}

/// Maximum size of a token file, in bytes. It leaves room for white space around the token.
const FILE_BYTES_MAX: usize = 2 * JOIN_TOKEN_BYTES_MAX;

/// Why no join token could be read.
#[derive(Debug, Error)]
pub enum JoinTokenReadError {
    #[error("join token file {} cannot be read", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("join token file {} is not text", file.display())]
    NotText { file: PathBuf },
    #[error("environment variable {name} holds no join token")]
    Unset { name: String },
    #[error("join token is refused")]
    Token(#[from] JoinTokenError),
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_text(text: &[u8]) -> Result<LoadedJoinToken, JoinTokenReadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(&JoinTokenSource::File(file.path().to_owned())).await
    }

    #[tokio::test]
    async fn white_space_around_a_token_makes_no_other_token() {
        let (zeros, nines) = ("A".repeat(43), format!("{}A", "_".repeat(42)));
        let text = |secret: &str| format!("postern-join-1:shop.example/orders:{zeros}:{secret}");
        let one = read_text(text(&zeros).as_bytes()).await.unwrap();
        let same = read_text(format!("\n {}\n\n", text(&zeros)).as_bytes()).await.unwrap();
        let other = read_text(text(&nines.replace('_', "8")).as_bytes()).await.unwrap();
        assert_eq!(one.token.id().as_str(), "spiffe://shop.example/orders");
        assert_eq!(one.fingerprint, same.fingerprint);
        assert_ne!(one.fingerprint, other.fingerprint);
    }

    #[tokio::test]
    async fn invalid_token_is_refused_and_not_in_the_error() {
        let absent = JoinTokenSource::File(PathBuf::from("/no/such/token"));
        assert!(matches!(read(&absent).await, Err(JoinTokenReadError::Unreadable { .. })));
        let unset = JoinTokenSource::Env("POSTERN_TEST_NOT_SET".to_owned());
        assert!(matches!(read(&unset).await, Err(JoinTokenReadError::Unset { .. })));
        assert!(matches!(read_text(&[0xff]).await, Err(JoinTokenReadError::NotText { .. })));
        let long = read_text("x".repeat(1 << 20).as_bytes()).await.unwrap_err();
        assert!(matches!(long, JoinTokenReadError::Token(JoinTokenError::TooLong { .. })));
        let wrong = crate::error_text::one_line(&read_text(b"hunter2").await.unwrap_err());
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
}
