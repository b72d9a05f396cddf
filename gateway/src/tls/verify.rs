//! Verifies client certificates: path, purpose, revocation, and that they are of our environment.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use waymark_core::directory::Environment;

use super::{Peer, TlsError, TlsFiles, files};

pub(super) fn client_verifier(
    files: &TlsFiles,
    environment: Environment,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in files::certificates(&files.client_ca)? {
        roots.add(certificate).map_err(TlsError::Server)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(path) = &files.crl {
        builder = builder.with_crls(files::revocation_lists(path)?);
    }
    let path = builder.build().map_err(TlsError::Verifier)?;
    Ok(Arc::new(OfOurEnvironment { path, environment }))
}

/// Refuses, within the handshake, a certificate of the other environment (ruling 22): nothing it says is read.
#[derive(Debug)]
struct OfOurEnvironment {
    path: Arc<dyn ClientCertVerifier>,
    environment: Environment,
}

impl ClientCertVerifier for OfOurEnvironment {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.path.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .path
            .verify_client_cert(end_entity, intermediates, now)?;
        let peer = Peer::parse(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if peer.is_of_other_environment(self.environment) {
            // The alert is access_denied.
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.path
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.path
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.path.supported_verify_schemes()
    }
}
