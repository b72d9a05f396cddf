//! What a certificate proves, parsed once per connection.

use rustls_pki_types::CertificateDer;
use waymark_core::directory::Environment;
use waymark_core::time::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The scheme of names in the gateway's certificates: `waymark:<test|live>:<agency|admin|auditor|...>:<id...>`.
pub const SAN_SCHEME: &str = "waymark:";
/// SAN URIs that are read from one certificate; one with more is refused.
pub const SAN_URIS_MAX: usize = 16;

/// Who is at the other end of a connection, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The URIs of its subjectAltName, in order.
    pub san_uris: Vec<String>,
    /// When its certificate ends.
    pub not_after: Timestamp,
    /// Its serial number, lower-case hex.
    pub serial: String,
}

/// Why a certificate says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It is not an X.509 certificate.
    #[error("the certificate does not parse")]
    Malformed,
    /// It has more than [`SAN_URIS_MAX`] names.
    #[error("the certificate has more than {SAN_URIS_MAX} URIs")]
    TooManyNames,
}

impl Peer {
    /// Reads a certificate whose chain has been verified.
    ///
    /// # Errors
    /// [`PeerError`] when it does not parse or has too many names.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| PeerError::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerError::Malformed);
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| PeerError::Malformed)?;
        let mut san_uris = Vec::new();
        for name in names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
        {
            if let GeneralName::URI(uri) = name {
                san_uris.push((*uri).to_owned());
            }
        }
        if san_uris.len() > SAN_URIS_MAX {
            return Err(PeerError::TooManyNames);
        }
        let seconds = parsed.validity().not_after.timestamp();
        let not_after = Timestamp::from_ms(seconds.saturating_mul(1000));
        Ok(Self {
            san_uris,
            not_after,
            serial: hex::encode(parsed.raw_serial()),
        })
    }

    /// Whether any of its names says that it belongs to the other environment (ruling 22).
    pub fn is_of_other_environment(&self, ours: Environment) -> bool {
        self.san_uris.iter().any(|uri| match environment_of(uri) {
            Named::Of(environment) => environment != ours,
            Named::Neither => true,
            Named::NotOurs => false,
        })
    }
}

/// What a name says of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// It is of this environment.
    Of(Environment),
    /// It has our scheme and names no environment that there is.
    Neither,
    /// It is not a name of our scheme.
    NotOurs,
}

/// What a SAN URI says of the environment.
pub fn environment_of(uri: &str) -> Named {
    let Some(rest) = uri.strip_prefix(SAN_SCHEME) else {
        return Named::NotOurs;
    };
    match rest.split(':').next() {
        Some("test") => Named::Of(Environment::Test),
        Some("live") => Named::Of(Environment::Live),
        _ => Named::Neither,
    }
}
