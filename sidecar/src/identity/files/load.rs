//! Reading three PEM files with size limits, and verifying them together.

use std::io;
use std::path::{Path, PathBuf};

use postern_proto::identity::{
    BUNDLE_BYTES_MAX, BundleError, PemError, PrivateKey, PrivateKeyError, Svid, SvidError, TrustBundles,
    certificates_from_pem, claimed_id,
};
use ring::digest;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::fs::{self, File};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

/// Maximum size of a chain file, in bytes.
pub const SVID_FILE_BYTES_MAX: usize = 256 * 1024;
/// Maximum size of a key file, in bytes.
pub const KEY_FILE_BYTES_MAX: usize = 64 * 1024;

/// The paths of the three files.
#[derive(Debug, Clone)]
pub struct FilePaths {
    /// The chain, leaf first.
    pub svid: PathBuf,
    pub key: PathBuf,
    /// The roots.
    pub bundle: PathBuf,
}

/// Reads and verifies the files once.
pub async fn load(paths: &FilePaths, now: OffsetDateTime) -> Result<(Svid, TrustBundles), FilesError> {
    read(paths).await?.verify(now)
}

pub(super) async fn read(paths: &FilePaths) -> Result<FileContents, FilesError> {
    Ok(FileContents {
        svid: read_file(&paths.svid, SVID_FILE_BYTES_MAX).await?,
        key: read_file(&paths.key, KEY_FILE_BYTES_MAX).await?,
        bundle: read_file(&paths.bundle, BUNDLE_BYTES_MAX).await?,
    })
}

async fn read_file(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let unreadable = |cause| FilesError::Unreadable { path: path.to_owned(), cause };
    let metadata = fs::metadata(path).await.map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(FilesError::NoFile { path: path.to_owned() });
    }
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    // The capacity is allocated up front: growing the buffer would leave a copy of the key in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.min(bytes_max) + 1));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut opened = File::open(path).await.map_err(unreadable)?.take(limit);
    opened.read_to_end(&mut bytes).await.map_err(unreadable)?;
    if bytes.len() > bytes_max {
        return Err(FilesError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

/// The contents of the three files at one poll.
pub(super) struct FileContents {
    svid: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    bundle: Zeroizing<Vec<u8>>,
}

/// SHA-256 over the three files. Detects changes without keeping the key in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilesFingerprint([u8; 32]);

impl FileContents {
    pub(super) fn fingerprint(&self) -> FilesFingerprint {
        let mut context = digest::Context::new(&digest::SHA256);
        for file in [&self.svid, &self.key, &self.bundle] {
            context.update(digest::digest(&digest::SHA256, file).as_ref());
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        FilesFingerprint(fingerprint)
    }

    /// Checks that chain, key and bundle match and are valid at `now`.
    pub(super) fn verify(&self, now: OffsetDateTime) -> Result<(Svid, TrustBundles), FilesError> {
        let chain = certificates_from_pem(&self.svid)?;
        let key = PrivateKey::from_pem(&self.key)?;
        let id = claimed_id(&chain).map_err(SvidError::from)?;
        // Roots without a SPIFFE ID of their own belong to the leaf's trust domain (svid.md, Roots).
        let bundles = TrustBundles::from_pem(id.trust_domain(), &self.bundle)?;
        let svid = Svid::new(chain, key, &bundles, now)?;
        Ok((svid, bundles))
    }
}

/// Why the files cannot be used as an identity.
#[derive(Debug, Error)]
pub enum FilesError {
    #[error("{} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is not a file", path.display())]
    NoFile { path: PathBuf },
    #[error("{} has more than the {bytes_max} bytes allowed", path.display())]
    TooLarge { path: PathBuf, bytes_max: usize },
    #[error("svid_file is refused")]
    Chain(#[from] PemError),
    #[error("key_file is refused")]
    Key(#[from] PrivateKeyError),
    #[error("bundle_file is refused")]
    Bundle(#[from] BundleError),
    #[error("svid_file, key_file and bundle_file are no identity together")]
    Svid(#[from] SvidError),
    #[error("certificate cannot be used for TLS")]
    Unusable(#[source] rustls::Error),
}

impl FilesError {
    /// A stable code for metrics and status.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::NoFile { .. } => "file_unreadable",
            Self::TooLarge { .. } => "file_too_large",
            Self::Chain(_) | Self::Key(_) => "file_malformed",
            Self::Bundle(_) => "bundle_refused",
            Self::Svid(SvidError::Chain(error)) => error.code(),
            Self::Svid(SvidError::Key { .. }) | Self::Unusable(_) => "key_mismatch",
        }
    }
}
