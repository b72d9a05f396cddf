//! The authority itself: it makes P-256 keys and signs their certificates.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use jiff::ToSpan as _;
use jiff::civil::Date;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::super::failure::Failure;
use super::super::init::{CA_CERT, CA_KEY};

/// Days that the authority's own certificate holds.
const CA_DAYS: i64 = 3_650;
/// Days that a certificate holds unless asked otherwise.
pub(in crate::cli) const CERTIFICATE_DAYS: u32 = 365;
/// The most days that may be asked for: what browsers and most libraries take.
const CERTIFICATE_DAYS_MAX: u32 = 825;

/// An authority that can sign.
pub struct Authority {
    cert_pem: String,
    name: String,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A certificate to sign. Names make it a server's; it is always a client's as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateAsk {
    /// The subject's common name, for people alone.
    pub common_name: String,
    /// URIs, e.g. `waymark:test:agency:EE123456`.
    pub uris: Vec<String>,
    /// DNS names and addresses that it serves under.
    pub names: Vec<String>,
    /// Days that it holds.
    pub days: u32,
}

/// A signed certificate and its private key.
pub struct Issued {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PEM.
    pub key_pem: Zeroizing<String>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued")
    }
}

impl Authority {
    /// Makes an authority with a new P-256 key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate(name: &str, today: Date) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .context("generate the authority's key")?;
        let mut params = ca_params(name);
        set_period(&mut params, today, CA_DAYS)?;
        let cert_pem = params
            .self_signed(&key)
            .context("sign the authority's certificate")?
            .pem();
        Ok(Self {
            cert_pem,
            name: name.to_owned(),
            key,
        })
    }

    /// Loads the authority of a deployment's folder.
    ///
    /// # Errors
    /// When its files are missing, or the certificate was not made by [`Authority::generate`].
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path)
                .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
        };
        let cert_pem = read(CA_CERT)?;
        let key = KeyPair::from_pem(&Zeroizing::new(read(CA_KEY)?))
            .context("read the authority's key")?;
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .context("read the authority's certificate")?;
        let (_, parsed) =
            X509Certificate::from_der(&der).context("read the authority's certificate")?;
        // What it signs names its issuer by this one attribute: a subject with more would not be matched.
        let mut names = parsed.subject().iter_common_name();
        let name = names
            .next()
            .and_then(|n| n.as_str().ok())
            .unwrap_or_default()
            .to_owned();
        if name.is_empty() || parsed.subject().iter_attributes().count() != 1 {
            bail!("{CA_CERT} is not an authority made by `waymark init`");
        }
        if parsed.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
            bail!("{CA_KEY} is not the key of {CA_CERT}");
        }
        Ok(Self {
            cert_pem,
            name,
            key,
        })
    }

    /// The authority's certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key, PEM.
    pub(in crate::cli) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// Signs a certificate with a new P-256 key.
    ///
    /// # Errors
    /// When a name is not one, or more than 825 days are asked for.
    pub fn issue(&self, ask: &CertificateAsk, today: Date) -> anyhow::Result<Issued> {
        if !(1..=CERTIFICATE_DAYS_MAX).contains(&ask.days) {
            return Err(Failure::usage(format!(
                "a certificate holds 1 to {CERTIFICATE_DAYS_MAX} days"
            )));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&ask.common_name);
        params.subject_alt_names = alternative_names(ask)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !ask.names.is_empty() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        set_period(&mut params, today, i64::from(ask.days))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("generate a key")?;
        let issuer = Issuer::new(ca_params(&self.name), &self.key);
        let cert = params
            .signed_by(&key, &issuer)
            .context("sign a certificate")?;
        Ok(Issued {
            cert_pem: cert.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

fn alternative_names(ask: &CertificateAsk) -> anyhow::Result<Vec<SanType>> {
    let ia5 = |text: &str| {
        Ia5String::try_from(text.to_owned())
            .map_err(|_| Failure::usage(format!("{text} is not ASCII")))
    };
    let mut names = Vec::new();
    for uri in &ask.uris {
        if !uri.contains(':') || uri.contains(char::is_whitespace) {
            return Err(Failure::usage(format!(
                "{uri} is not a URI, such as waymark:test:agency:EE123456"
            )));
        }
        names.push(SanType::URI(ia5(uri)?));
    }
    for name in &ask.names {
        names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(ia5(name)?),
        });
    }
    Ok(names)
}

/// From yesterday, so that a clock behind ours takes it too.
fn set_period(params: &mut CertificateParams, today: Date, days: i64) -> anyhow::Result<()> {
    let parts = |date: Date| -> anyhow::Result<(i32, u8, u8)> {
        Ok((
            i32::from(date.year()),
            u8::try_from(date.month())?,
            u8::try_from(date.day())?,
        ))
    };
    let (year, month, day) = parts(today.checked_sub(1.day())?)?;
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = parts(today.checked_add(days.days())?)?;
    params.not_after = rcgen::date_time_ymd(year, month, day);
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const TODAY: Date = date(2026, 3, 2);

    fn ask() -> CertificateAsk {
        CertificateAsk {
            common_name: "test".to_owned(),
            uris: vec!["waymark:test:agency:R1L".to_owned()],
            names: vec![
                "localhost".to_owned(),
                "127.0.0.1".to_owned(),
                "::1".to_owned(),
            ],
            days: CERTIFICATE_DAYS,
        }
    }

    fn save(authority: &Authority) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CA_CERT), authority.cert_pem()).unwrap();
        std::fs::write(dir.path().join(CA_KEY), authority.key_pem().as_bytes()).unwrap();
        dir
    }

    #[test]
    fn a_certificate_names_what_was_asked_for_and_verifies_under_the_loaded_authority() {
        let dir = save(&Authority::generate("Test authority", TODAY).unwrap());
        let authority = Authority::load(dir.path()).unwrap();
        let issued = authority.issue(&ask(), TODAY).unwrap();
        let shown = super::super::shown(issued.cert_pem.as_bytes()).unwrap();
        let shown = shown.first().unwrap();
        assert_eq!(shown.uris, ["waymark:test:agency:R1L"]);
        assert_eq!(shown.names, ["localhost", "127.0.0.1", "::1"]);
        assert_eq!(shown.issuer, "CN=Test authority");
        assert_eq!(
            (shown.not_before.as_str(), shown.not_after.as_str()),
            ("2026-03-01T00:00:00.000Z", "2027-03-02T00:00:00.000Z")
        );
        assert!(!shown.authority);
        let ca = CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).unwrap();
        let leaf = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
        let (_, ca) = X509Certificate::from_der(&ca).unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        assert_eq!(leaf.issuer().as_raw(), ca.subject().as_raw());
        let identifier = |c: &X509Certificate<'_>| {
            c.extensions()
                .iter()
                .find_map(|e| match e.parsed_extension() {
                    x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => {
                        Some(id.0.to_vec())
                    }
                    x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                        Some(id.key_identifier.as_ref()?.0.to_vec())
                    }
                    _ => None,
                })
        };
        assert_eq!(
            identifier(&leaf),
            identifier(&ca),
            "the leaf's authority key identifier is the authority's"
        );
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let dir = save(&Authority::generate("One", TODAY).unwrap());
        let other = Authority::generate("One", TODAY).unwrap();
        std::fs::write(dir.path().join(CA_KEY), other.key_pem().as_bytes()).unwrap();
        assert!(
            Authority::load(dir.path())
                .unwrap_err()
                .to_string()
                .contains("not the key")
        );
    }

    #[test]
    fn days_and_names_have_limits() {
        let authority = Authority::generate("Test", TODAY).unwrap();
        assert!(
            authority
                .issue(
                    &CertificateAsk {
                        days: CERTIFICATE_DAYS_MAX,
                        ..ask()
                    },
                    TODAY
                )
                .is_ok()
        );
        assert!(
            authority
                .issue(
                    &CertificateAsk {
                        days: CERTIFICATE_DAYS_MAX + 1,
                        ..ask()
                    },
                    TODAY
                )
                .is_err()
        );
        assert!(
            authority
                .issue(&CertificateAsk { days: 0, ..ask() }, TODAY)
                .is_err()
        );
        let not_a_uri = CertificateAsk {
            uris: vec!["R1L".to_owned()],
            ..ask()
        };
        assert!(
            authority
                .issue(&not_a_uri, TODAY)
                .unwrap_err()
                .to_string()
                .contains("not a URI")
        );
    }
}
