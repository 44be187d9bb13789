//! Where the join token is read, anew at each attempt: an operator may put a fresh one there at any time.

use std::io;
use std::path::{Path, PathBuf};

use postern_proto::join_token::{JOIN_TOKEN_BYTES_MAX, JoinToken, JoinTokenError};
use ring::digest;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use crate::config::JoinTokenSource;

/// A join token with the fingerprint of its text, by which it is known again once it has been used.
#[derive(Debug)]
pub struct ReadToken {
    pub token: JoinToken,
    pub fingerprint: Fingerprint,
}

/// SHA-256 of the token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Reads the token that is there now.
pub async fn read(source: &JoinTokenSource) -> Result<ReadToken, ReadTokenError> {
    let text = match source {
        JoinTokenSource::File(file) => read_file(file).await?,
        JoinTokenSource::Env(name) => read_env(name)?,
    };
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, text.trim().as_bytes()).as_ref());
    Ok(ReadToken { token: JoinToken::parse(&text)?, fingerprint: Fingerprint(fingerprint) })
}

async fn read_file(file: &Path) -> Result<Zeroizing<String>, ReadTokenError> {
    let unreadable = |cause| ReadTokenError::Unreadable { file: file.to_owned(), cause };
    // All of its capacity is there from the start, so that no copy is left behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    let mut opened = File::open(file).await.map_err(unreadable)?.take(FILE_BYTES_MAX as u64 + 1);
    opened.read_to_end(&mut bytes).await.map_err(unreadable)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ReadTokenError::NotText { file: file.to_owned() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_env(name: &str) -> Result<Zeroizing<String>, ReadTokenError> {
    let value = std::env::var(name).map_err(|_| ReadTokenError::Unset { name: name.to_owned() })?;
    Ok(Zeroizing::new(value))
}

/// A token file may have white space around the token.
const FILE_BYTES_MAX: usize = 2 * JOIN_TOKEN_BYTES_MAX;

/// Why there is no join token.
#[derive(Debug, Error)]
pub enum ReadTokenError {
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

    async fn read_text(text: &[u8]) -> Result<ReadToken, ReadTokenError> {
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
    async fn what_is_no_token_is_refused_and_never_repeated() {
        let absent = JoinTokenSource::File(PathBuf::from("/no/such/token"));
        assert!(matches!(read(&absent).await, Err(ReadTokenError::Unreadable { .. })));
        let unset = JoinTokenSource::Env("POSTERN_TEST_NOT_SET".to_owned());
        assert!(matches!(read(&unset).await, Err(ReadTokenError::Unset { .. })));
        assert!(matches!(read_text(&[0xff]).await, Err(ReadTokenError::NotText { .. })));
        let long = read_text("x".repeat(1 << 20).as_bytes()).await.unwrap_err();
        assert!(matches!(long, ReadTokenError::Token(JoinTokenError::TooLong { .. })));
        let wrong = crate::error_text::one_line(&read_text(b"hunter2").await.unwrap_err());
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
}
