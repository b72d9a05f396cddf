//! TLS towards a peer: our roots and certificate, and whether the peer is the one that was bound.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::context::TlsProfile;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Its roots do not parse, or there are none.
    #[error("TLS profile {0}: the roots are not PEM certificates")]
    Roots(String),
    /// Its chain or key does not parse.
    #[error("TLS profile {0}: the chain or key is not PEM")]
    Identity(String),
    /// rustls refuses it, e.g. because key and certificate do not belong together.
    #[error("TLS profile {0} is refused")]
    Refused(String, #[source] rustls::Error),
}

/// A profile, parsed.
#[derive(Clone)]
pub(crate) struct Profile {
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: Option<Arc<PrivateKeyDer<'static>>>,
}

/// Profiles by name.
pub(crate) type Profiles = BTreeMap<String, Profile>;

impl Profile {
    /// Parses a profile and tries it out.
    pub(crate) fn parse(name: &str, profile: &TlsProfile) -> Result<Self, ProfileError> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&profile.roots_pem) {
            let root = root.map_err(|_| ProfileError::Roots(name.to_owned()))?;
            roots
                .add(root)
                .map_err(|e| ProfileError::Refused(name.to_owned(), e))?;
        }
        if roots.is_empty() {
            return Err(ProfileError::Roots(name.to_owned()));
        }
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&profile.chain_pem)
                .collect::<Result<_, _>>()
                .map_err(|_| ProfileError::Identity(name.to_owned()))?;
        let key = if chain.is_empty() {
            None
        } else {
            let key = PrivateKeyDer::from_pem_slice(&profile.key_pem);
            Some(Arc::new(
                key.map_err(|_| ProfileError::Identity(name.to_owned()))?,
            ))
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|_| ProfileError::Roots(name.to_owned()))?;
        let parsed = Self {
            provider,
            verifier,
            chain,
            key,
        };
        parsed
            .client(None, &[])
            .map_err(|e| ProfileError::Refused(name.to_owned(), e))?;
        Ok(parsed)
    }

    /// The settings of one endpoint's connections, which reach a peer of that SAN URI or nobody.
    pub(crate) fn client(
        &self,
        peer_identity: Option<&str>,
        protocols: &[&[u8]],
    ) -> Result<ClientConfig, rustls::Error> {
        let verifier = PeerVerifier {
            chain: Arc::clone(&self.verifier),
            expected: peer_identity.map(ToOwned::to_owned),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.key {
            Some(key) => builder.with_client_auth_cert(self.chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        // A resumed session is not verified again: every connection makes its peer prove itself.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }
}

/// The peer proved to be somebody else than the bound recipient.
#[derive(Debug, thiserror::Error)]
#[error("the peer's certificate is not that of the bound recipient")]
pub(crate) struct WrongPeer;

/// Verifies the chain and name as usual, then that the certificate carries the bound identity, all before the
/// first byte of a message is written.
#[derive(Debug)]
struct PeerVerifier {
    chain: Arc<WebPkiServerVerifier>,
    expected: Option<String>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        match &self.expected {
            Some(expected) if !has_san_uri(end_entity, expected) => {
                Err(CertificateError::Other(OtherError(Arc::new(WrongPeer))).into())
            }
            _ => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn has_san_uri(certificate: &CertificateDer<'_>, expected: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    names
        .value
        .general_names
        .iter()
        .any(|name| matches!(name, GeneralName::URI(u) if *u == expected))
}

/// The alerts of a peer that did not take our certificate. With TLS 1.3 they come after our handshake has ended,
/// and still mean that the peer's has not.
const REFUSALS: [AlertDescription; 10] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::CertificateRequired,
    AlertDescription::DecryptError,
    AlertDescription::HandshakeFailure,
];

/// What a TLS failure says of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It proved to be somebody else.
    WrongPeer,
    /// It proved nothing: unknown issuer, expired, revoked.
    Untrusted,
    /// It did not take our certificate, and so read nothing of what we wrote.
    RefusedUs,
    /// Anything else.
    Handshake,
}

impl Failure {
    /// Finds what a chain of errors says of the peer; `None` when it says nothing of TLS.
    pub(crate) fn in_chain(error: &(dyn StdError + 'static)) -> Option<Self> {
        find::<rustls::Error>(error).map(Self::of).or_else(|| {
            // HTTP/2 keeps of an input error its kind and words alone.
            let words = find::<std::io::Error>(error)?.to_string();
            let alert = words.strip_prefix("received fatal alert: ")?;
            REFUSALS
                .iter()
                .any(|r| format!("{r:?}") == alert)
                .then_some(Self::RefusedUs)
        })
    }

    fn of(error: &rustls::Error) -> Self {
        use CertificateError as Bad;
        match error {
            rustls::Error::InvalidCertificate(Bad::Other(other))
                if other.0.downcast_ref::<WrongPeer>().is_some() =>
            {
                Self::WrongPeer
            }
            rustls::Error::InvalidCertificate(
                Bad::NotValidForName | Bad::NotValidForNameContext { .. },
            ) => Self::WrongPeer,
            rustls::Error::InvalidCertificate(_) => Self::Untrusted,
            rustls::Error::AlertReceived(alert) if REFUSALS.contains(alert) => Self::RefusedUs,
            _ => Self::Handshake,
        }
    }
}

/// Finds an error of a type in a chain. An `io::Error` hides its own cause from `source`.
pub(crate) fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    const DEPTH_MAX: usize = 16;
    let mut next = Some(error);
    for _ in 0..DEPTH_MAX {
        let error = next?;
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}
