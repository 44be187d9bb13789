//! One certificate, parsed once, with the rules that hold for any certificate of a path.

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::nom;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use super::algorithms::{check_key, check_signature};
use super::{Place, VerifyError, der};
use crate::identity::SpiffeId;

/// RFC 5280 §4.1.2.2.
const SERIAL_OCTETS_MAX: usize = 20;

/// A parsed certificate and where it stands.
pub(super) struct ParsedCertificate<'a> {
    pub(super) place: Place,
    cert: X509Certificate<'a>,
}

impl<'a> ParsedCertificate<'a> {
    /// Parses a certificate of version 3, and nothing behind it.
    pub(super) fn parse(place: Place, der: &'a CertificateDer<'_>) -> Result<Self, VerifyError> {
        let malformed = |detail: String| VerifyError::Malformed { place: place.clone(), detail };
        if der::single(der).is_none() {
            return Err(malformed("not one DER element".to_owned()));
        }
        let (_, cert) =
            X509Certificate::from_der(der).map_err(|error| malformed(what_is_broken(&error).to_owned()))?;
        Ok(Self { place, cert })
    }

    /// RFC 5280 §4.1.2.1.
    pub(super) fn check_version(&self) -> Result<(), VerifyError> {
        match self.cert.version() {
            X509Version::V3 => Ok(()),
            X509Version(other) => {
                let version = other.saturating_add(1);
                Err(VerifyError::Version { place: self.place.clone(), version })
            }
        }
    }

    /// RFC 5280 §4.2.1.10: constraints on URIs are not checked by webpki.
    pub(super) fn check_name_constraints(&self) -> Result<(), VerifyError> {
        let extension = self.extension(&OID_X509_EXT_NAME_CONSTRAINTS).map(X509Extension::parsed_extension);
        let Some(ParsedExtension::NameConstraints(constraints)) = extension else { return Ok(()) };
        let subtrees = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
        let mut bases = subtrees.into_iter().flatten().flatten().map(|subtree| &subtree.base);
        if bases.any(|base| matches!(base, GeneralName::URI(_))) {
            return Err(VerifyError::UriConstraints { place: self.place.clone() });
        }
        Ok(())
    }

    /// The subject, DER.
    pub(super) fn raw_subject(&self) -> &[u8] {
        self.cert.subject().as_raw()
    }

    /// By whom it says it was issued, DER.
    pub(super) fn raw_issuer(&self) -> &[u8] {
        self.cert.issuer().as_raw()
    }

    /// The subject as people read it.
    pub(super) fn subject(&self) -> String {
        self.cert.subject().to_string()
    }

    pub(super) fn serial(&self) -> &[u8] {
        self.cert.raw_serial()
    }

    pub(super) fn not_before(&self) -> OffsetDateTime {
        self.cert.validity().not_before.to_datetime()
    }

    pub(super) fn not_after(&self) -> OffsetDateTime {
        self.cert.validity().not_after.to_datetime()
    }

    /// Whether the subject has no attribute at all.
    pub(super) fn subject_is_empty(&self) -> bool {
        self.cert.subject().iter().next().is_none()
    }

    /// Rules for every certificate of a path: extensions once, serial, algorithms.
    pub(super) fn check_form(&self) -> Result<(), VerifyError> {
        self.check_extensions()?;
        self.check_serial()?;
        if self.cert.signature_algorithm != self.cert.tbs_certificate.signature {
            return Err(VerifyError::SignatureAlgorithmMismatch { place: self.place.clone() });
        }
        check_signature(&self.place, &self.cert.signature_algorithm)?;
        check_key(&self.place, &self.cert.tbs_certificate.subject_pki)
    }

    /// RFC 5280 §4.2: no extension twice, known or not; and each known one is a single DER element.
    fn check_extensions(&self) -> Result<(), VerifyError> {
        let extensions = self.cert.extensions();
        for (at, extension) in extensions.iter().enumerate() {
            if extensions.iter().take(at).any(|earlier| earlier.oid == extension.oid) {
                let oid = extension.oid.to_id_string();
                return Err(VerifyError::RepeatedExtension { place: self.place.clone(), oid });
            }
            let unread = matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
            if unread || der::single(extension.value).is_none() {
                let detail = format!("extension {} is not readable", extension.oid.to_id_string());
                return Err(VerifyError::Malformed { place: self.place.clone(), detail });
            }
        }
        Ok(())
    }

    /// RFC 5280 §4.1.2.2 and X.690 §8.3.2: positive, minimal, at most 20 octets.
    fn check_serial(&self) -> Result<(), VerifyError> {
        let rule = match self.serial() {
            [] | [0] => "is not positive",
            [first, ..] if *first >= 0x80 => "is not positive",
            [0, second, ..] if *second < 0x80 => "is not minimal",
            long if long.len() > SERIAL_OCTETS_MAX => "has more than 20 octets",
            _ => return Ok(()),
        };
        Err(VerifyError::Serial { place: self.place.clone(), rule })
    }

    /// Whether an extension must be understood and is not (RFC 5280 §4.2). webpki asks this of leaf and issuers.
    pub(super) fn has_unknown_critical_extension(&self) -> bool {
        let known = [
            OID_X509_EXT_BASIC_CONSTRAINTS,
            OID_X509_EXT_EXTENDED_KEY_USAGE,
            OID_X509_EXT_KEY_USAGE,
            OID_X509_EXT_NAME_CONSTRAINTS,
            OID_X509_EXT_SUBJECT_ALT_NAME,
        ];
        self.cert.extensions().iter().any(|extension| extension.critical && !known.contains(&extension.oid))
    }

    fn extension(&self, oid: &Oid<'_>) -> Option<&X509Extension<'a>> {
        self.cert.extensions().iter().find(|extension| extension.oid == *oid)
    }

    /// The key usage, which must be there and critical (X509-SVID §4.3, RFC 5280 §4.2.1.3).
    pub(super) fn critical_key_usage(&self) -> Result<&KeyUsage, VerifyError> {
        match self.extension(&OID_X509_EXT_KEY_USAGE) {
            None => Err(VerifyError::NoKeyUsage { place: self.place.clone() }),
            Some(extension) if !extension.critical => {
                Err(VerifyError::KeyUsageNotCritical { place: self.place.clone() })
            }
            Some(_) => self.key_usage().ok_or_else(|| VerifyError::NoKeyUsage { place: self.place.clone() }),
        }
    }

    /// The key usage, if there is one.
    pub(super) fn key_usage(&self) -> Option<&KeyUsage> {
        match self.extension(&OID_X509_EXT_KEY_USAGE)?.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => Some(usage),
            _ => None,
        }
    }

    /// The extended key usage, if there is one.
    pub(super) fn extended_key_usage(&self) -> Option<&ExtendedKeyUsage<'a>> {
        match self.extension(&OID_X509_EXT_EXTENDED_KEY_USAGE)?.parsed_extension() {
            ParsedExtension::ExtendedKeyUsage(usage) => Some(usage),
            _ => None,
        }
    }

    /// cA and pathLenConstraint; a certificate without basic constraints is no CA (RFC 5280 §4.2.1.9).
    pub(super) fn basic_constraints(&self) -> (bool, Option<u32>) {
        match self.extension(&OID_X509_EXT_BASIC_CONSTRAINTS).map(X509Extension::parsed_extension) {
            Some(ParsedExtension::BasicConstraints(constraints)) => {
                (constraints.ca, constraints.path_len_constraint)
            }
            _ => (false, None),
        }
    }

    /// Whether the subject alternative name is marked critical.
    pub(super) fn san_is_critical(&self) -> bool {
        self.extension(&OID_X509_EXT_SUBJECT_ALT_NAME).is_some_and(|extension| extension.critical)
    }

    /// The one URI name, if there is any. They are counted on the raw DER: parsers drop what they cannot read.
    pub(super) fn spiffe_id(&self) -> Result<Option<SpiffeId>, VerifyError> {
        let sans = self.cert.extensions().iter().filter(|ext| ext.oid == OID_X509_EXT_SUBJECT_ALT_NAME);
        let mut uris = Vec::new();
        for (at, extension) in sans.enumerate() {
            if at > 0 {
                let oid = extension.oid.to_id_string();
                return Err(VerifyError::RepeatedExtension { place: self.place.clone(), oid });
            }
            let names = der::sequence(extension.value).filter(|names| !names.is_empty());
            let names = names.ok_or_else(|| VerifyError::Malformed {
                place: self.place.clone(),
                detail: "subject alternative name is not readable".to_owned(),
            })?;
            // `[6]` is primitive; its constructed form is no DER, but it would be a URI to a lenient reader.
            uris.extend(names.into_iter().filter(|(tag, _)| tag | 0x20 == der::TAG_URI | 0x20));
        }
        match uris.as_slice() {
            [] => Ok(None),
            [(der::TAG_URI, uri)] => {
                let not_text = |_| VerifyError::UriNotText { place: self.place.clone() };
                let uri = std::str::from_utf8(uri).map_err(not_text)?;
                let bad = |error| VerifyError::SpiffeId { place: self.place.clone(), error };
                SpiffeId::parse_canonical(uri).map(Some).map_err(bad)
            }
            [_] => Err(VerifyError::UriNotText { place: self.place.clone() }),
            many => Err(VerifyError::ManyUris { place: self.place.clone(), count: many.len() }),
        }
    }
}

/// The parser's finding as a sentence.
fn what_is_broken(error: &nom::Err<X509Error>) -> &'static str {
    let error = match error {
        nom::Err::Error(error) | nom::Err::Failure(error) => error,
        nom::Err::Incomplete(_) => return "it ends too early",
    };
    match error {
        X509Error::InvalidVersion => "its version cannot be read",
        X509Error::InvalidSerial => "its serial number cannot be read",
        X509Error::InvalidAlgorithmIdentifier => "an algorithm in it cannot be read",
        X509Error::InvalidX509Name => "its issuer or subject cannot be read",
        X509Error::InvalidDate => "its validity cannot be read",
        X509Error::InvalidSPKI => "its public key cannot be read",
        X509Error::InvalidSubjectUID | X509Error::InvalidIssuerUID => "its unique identifiers cannot be read",
        X509Error::InvalidExtensions => "its extensions cannot be read",
        X509Error::DuplicateExtensions => "it has an extension twice",
        X509Error::InvalidSignatureValue => "its signature cannot be read",
        _ => "it is no certificate in DER (X.690, RFC 5280 §4.1)",
    }
}
