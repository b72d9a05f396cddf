//! The certificate of one of the demo's agencies, signed by the deployment's own authority.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use waymark_core::time::Clock as _;

use crate::cli::pki::{Authority, CertificateAsk, Issued};
use crate::clock::SystemClock;

/// Days that a certificate holds.
const DAYS: u32 = 7;

/// Whom a listener takes connections from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callers {
    /// Anybody: who they are, each message proves.
    Anybody,
    /// Whom the deployment's authority has signed for.
    Certified,
}

/// A certificate, its key, and the authority.
pub(super) struct Papers {
    /// The certificate and its key.
    pub(super) issued: Issued,
    /// The authority's certificate, PEM.
    pub(super) ca_pem: String,
}

impl Papers {
    /// Has a certificate signed for an identity of this machine.
    ///
    /// # Errors
    /// When the authority cannot sign.
    pub(super) fn issue(authority: &Authority, name: &str, identity: &str) -> anyhow::Result<Self> {
        let ask = CertificateAsk {
            common_name: name.to_owned(),
            uris: vec![identity.to_owned()],
            names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            days: DAYS,
        };
        Ok(Self {
            issued: authority.issue(&ask, SystemClock.now().london_date())?,
            ca_pem: authority.cert_pem().to_owned(),
        })
    }

    /// What a listener of the agency shows.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub(super) fn server(&self, callers: Callers) -> anyhow::Result<Arc<ServerConfig>> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.issued.cert_pem.as_bytes())
            .collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.issued.key_pem.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match callers {
            Callers::Anybody => builder.with_no_client_auth(),
            Callers::Certified => {
                let roots = Arc::new(self.roots()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let server = builder.with_single_cert(chain, key);
        Ok(Arc::new(server.context("use an agency's certificate")?))
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(root?)?;
        }
        Ok(roots)
    }
}
