//! The authority's directory: keys and certificates as PEM, readable by their owner alone, each file whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::identity::TrustDomain;
use rcgen::Issuer;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::{AuthorityError, CaKey, Signer, serial_hex};

const DIR: &str = "authority";
/// Made under this name first, then renamed as a whole.
const DIR_NEW: &str = "authority.new";
const TRUST_DOMAIN_FILE: &str = "trust-domain";

/// Why the directory cannot be used.
#[derive(Debug, Error)]
#[error("{}: {error}", path.display())]
pub struct DiskError {
    path: PathBuf,
    error: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |error| DiskError { path, error }
}

#[derive(Debug)]
pub(super) struct Disk {
    data_dir: PathBuf,
}

/// A CA certificate with its key, as it is kept.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: CaKey,
}

impl Stored {
    pub(super) fn into_signer(self) -> Result<Signer, AuthorityError> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate)
            .map_err(|error| AuthorityError::Stored(error.to_string()))?;
        let serial = parsed.raw_serial();
        let serial = serial_hex(serial.strip_prefix(&[0]).unwrap_or(serial));
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key)?;
        Ok(Signer { certificate: self.certificate, issuer, serial, not_before, not_after })
    }
}

impl Disk {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    pub(super) fn exists(&self) -> bool {
        self.data_dir.join(DIR).exists()
    }

    /// Makes the directory with its root, whole at once.
    pub(super) fn create(&self, trust_domain: &TrustDomain, root: &Stored) -> Result<(), DiskError> {
        let (new, done) = (self.data_dir.join(DIR_NEW), self.data_dir.join(DIR));
        if new.exists() {
            fs::remove_dir_all(&new).map_err(at(&new))?;
        }
        fs::DirBuilder::new().mode(0o700).create(&new).map_err(at(&new))?;
        write(&new.join(TRUST_DOMAIN_FILE), trust_domain.as_str().as_bytes())?;
        write_pair(&new, "root", root)?;
        fs::rename(&new, &done).map_err(at(&done))?;
        sync_dir(&self.data_dir)
    }

    pub(super) fn trust_domain(&self) -> Result<String, DiskError> {
        let path = self.data_dir.join(DIR).join(TRUST_DOMAIN_FILE);
        fs::read_to_string(&path).map_err(at(&path))
    }

    /// Keeps a pair in the place of an older one.
    pub(super) fn save(&self, name: &str, stored: &Stored) -> Result<(), DiskError> {
        write_pair(&self.data_dir.join(DIR), name, stored)
    }

    pub(super) fn load_if_there(&self, name: &str) -> Result<Option<Stored>, AuthorityError> {
        if self.path(name).exists() { self.load(name).map(Some) } else { Ok(None) }
    }

    /// Key and certificate are one file, so that they are never of two generations.
    pub(super) fn load(&self, name: &str) -> Result<Stored, AuthorityError> {
        let path = self.path(name);
        let pem = Zeroizing::new(fs::read(&path).map_err(at(&path))?);
        let bad = |error: rustls_pki_types::pem::Error| {
            AuthorityError::Stored(format!("{}: {error}", path.display()))
        };
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(bad)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(bad)?;
        Ok(Stored { certificate, key: CaKey::from_pkcs8(key.secret_pkcs8_der())? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data_dir.join(DIR).join(format!("{name}.pem"))
    }
}

fn write_pair(dir: &Path, name: &str, stored: &Stored) -> Result<(), DiskError> {
    let mut pem = Zeroizing::new(String::new());
    push_pem(&mut pem, "PRIVATE KEY", stored.key.pkcs8());
    push_pem(&mut pem, "CERTIFICATE", &stored.certificate);
    let (path, new) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.new")));
    write(&new, pem.as_bytes())?;
    fs::rename(&new, &path).map_err(at(&path))?;
    sync_dir(dir)
}

fn push_pem(pem: &mut String, label: &str, der: &[u8]) {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let written = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    written().map_err(at(path))
}

fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}
