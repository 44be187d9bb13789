//! Three PEM files, read with bounds and judged together.

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

/// A chain's file has at most this many bytes.
pub const SVID_FILE_BYTES_MAX: usize = 256 * 1024;
/// A key's file has at most this many bytes.
pub const KEY_FILE_BYTES_MAX: usize = 64 * 1024;

/// Where the three files are.
#[derive(Debug, Clone)]
pub struct FilePaths {
    /// The chain, leaf first.
    pub svid: PathBuf,
    pub key: PathBuf,
    /// The roots.
    pub bundle: PathBuf,
}

/// Reads and judges the files once.
pub async fn load(paths: &FilePaths, now: OffsetDateTime) -> Result<(Svid, TrustBundles), FilesError> {
    read(paths).await?.judge(now)
}

pub(super) async fn read(paths: &FilePaths) -> Result<Contents, FilesError> {
    Ok(Contents {
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
    // All of its capacity is there from the start, so that no copy of a key is left behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.min(bytes_max) + 1));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut opened = File::open(path).await.map_err(unreadable)?.take(limit);
    opened.read_to_end(&mut bytes).await.map_err(unreadable)?;
    if bytes.len() > bytes_max {
        return Err(FilesError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

/// What one look saw.
pub(super) struct Contents {
    svid: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    bundle: Zeroizing<Vec<u8>>,
}

/// SHA-256 over the three files, by which a set is known again without keeping the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Contents {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut context = digest::Context::new(&digest::SHA256);
        for file in [&self.svid, &self.key, &self.bundle] {
            context.update(digest::digest(&digest::SHA256, file).as_ref());
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        Fingerprint(fingerprint)
    }

    /// Whether the three belong together and are valid now.
    pub(super) fn judge(&self, now: OffsetDateTime) -> Result<(Svid, TrustBundles), FilesError> {
        let chain = certificates_from_pem(&self.svid)?;
        let key = PrivateKey::from_pem(&self.key)?;
        let id = claimed_id(&chain).map_err(SvidError::from)?;
        // Roots without a SPIFFE ID of their own belong to the leaf's trust domain (svid.md, Roots).
        let bundles = TrustBundles::from_pem(id.trust_domain(), &self.bundle)?;
        let svid = Svid::new(chain, key, &bundles, now)?;
        Ok((svid, bundles))
    }
}

/// Why the files are no identity.
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
    /// A stable word for metrics and status.
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
