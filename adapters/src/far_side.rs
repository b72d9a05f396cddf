//! What the tests' far sides share: certificates, a place to note what arrived, and the adapters' context.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::serve::Listener;
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::id::AgencyId;
use waymark_core::time::{Clock, Timestamp};
use zeroize::Zeroizing;

use crate::connect;
use crate::contract::{Received, Script, sample};
use crate::{AdapterContext, Adapters, DEFAULT_PROFILE, EgressPolicy, Peers, Secrets, TlsProfile};

/// The SAN URI of the agency that every far side plays.
pub(crate) const AGENCY: &str = "spiffe://area/agency/R1L";
/// Another identity of the same agency, which no far side here holds.
pub(crate) const OTHER_SYSTEM: &str = "spiffe://area/agency/R1L/other";
/// The gateway's own.
pub(crate) const GATEWAY: &str = "spiffe://area/gateway";
/// The instant of every test.
pub(crate) const NOW: Timestamp = Timestamp::from_ms(1_772_445_600_000);
/// Names of the secrets there are.
pub(crate) const SECRETS: [&str; 2] = ["new", "old"];

/// A certificate authority for one test.
pub(crate) struct Pki(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // Two authorities of one name would be taken for one another until a signature fails.
        let name = base64::engine::general_purpose::STANDARD.encode(key.public_key_raw());
        params
            .distinguished_name
            .push(DnType::CommonName, name.get(..40).unwrap());
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn root(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this machine and a SAN URI.
    pub(crate) fn issue(&self, uri: &str) -> Issued {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// What the adapters are built from: the gateway's certificate, and this authority as the only root.
    pub(crate) fn context(&self) -> AdapterContext {
        self.context_with(Some(self.issue(GATEWAY)))
    }

    /// The same with another certificate, or none.
    pub(crate) fn context_with(&self, own: Option<Issued>) -> AdapterContext {
        let (chain, key) = own.map_or_else(Default::default, |own| (own.chain, own.key));
        let profile = TlsProfile {
            roots_pem: self.root().into_bytes(),
            chain_pem: chain.into_bytes(),
            key_pem: Zeroizing::new(key.into_bytes()),
        };
        AdapterContext {
            profiles: BTreeMap::from([(DEFAULT_PROFILE.to_owned(), profile)]),
            secrets: Arc::new(Drawer),
            peers: Arc::new(Book::default()),
            environment: Environment::Test,
            egress: EgressPolicy::AsFlagged,
            clock: Arc::new(Stopped),
            intake: None,
            files_root: None,
        }
    }

    pub(crate) fn adapters(&self) -> Adapters {
        Adapters::new(&self.context()).unwrap()
    }
}

/// Two webhook secrets.
pub(crate) struct Drawer;

impl Secrets for Drawer {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let seed = SECRETS.iter().position(|known| *known == name)?;
        let bytes = [u8::try_from(seed).unwrap(); 32];
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        Some(Zeroizing::new(format!("whsec_{text}\n").into_bytes()))
    }
}

/// Whose identities are; [`Book::revoke`] takes one out.
#[derive(Default)]
pub(crate) struct Book(Mutex<Option<String>>);

impl Book {
    pub(crate) fn revoke(&self, identity: &str) {
        *self.0.lock().unwrap() = Some(identity.to_owned());
    }
}

impl Peers for Book {
    fn agency_of(&self, identity: &str) -> Option<AgencyId> {
        let revoked = self.0.lock().unwrap().as_deref() == Some(identity);
        let known = [AGENCY, OTHER_SYSTEM].contains(&identity);
        (known && !revoked).then(sample::recipient)
    }
}

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        NOW
    }
}

/// What a far side was told to do and what it got.
pub(crate) struct Notes {
    script: watch::Sender<Script>,
    received: Mutex<Vec<Received>>,
    envelopes: Mutex<Vec<BTreeMap<String, String>>>,
}

impl Notes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            script: watch::Sender::new(Script::Take),
            received: Mutex::default(),
            envelopes: Mutex::default(),
        })
    }

    pub(crate) fn play(&self, script: Script) {
        self.script.send_replace(script);
    }

    pub(crate) fn script(&self) -> Script {
        *self.script.borrow()
    }

    pub(crate) fn note(&self, wire_id: &str, bytes: &[u8], envelope: BTreeMap<String, String>) {
        self.envelopes.lock().unwrap().push(envelope);
        let received = Received {
            wire_id: wire_id.to_owned(),
            bytes: bytes.to_vec(),
        };
        self.received.lock().unwrap().push(received);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The headers of the newest message.
    pub(crate) fn envelope(&self) -> BTreeMap<String, String> {
        self.envelopes
            .lock()
            .unwrap()
            .last()
            .cloned()
            .unwrap_or_default()
    }
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    listener().await.1
}

/// An endpoint with these settings, TOML.
pub(crate) fn endpoint(adapter: waymark_core::directory::AdapterKind, settings: &str) -> Endpoint {
    Endpoint {
        adapter,
        settings: settings.parse().unwrap(),
        ..sample::endpoint()
    }
}

/// The endpoint with one setting changed, or taken out, and the path of that setting.
pub(crate) fn with(
    endpoint: &Endpoint,
    key: &str,
    value: Option<toml::Value>,
) -> (Endpoint, String) {
    let mut changed = endpoint.clone();
    match value {
        Some(value) => changed.settings.insert(key.to_owned(), value),
        None => changed.settings.remove(key),
    };
    (changed, format!("settings.{key}"))
}

/// TLS before HTTP.
pub(crate) struct Secured {
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: TlsAcceptor,
}

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = self.listener.accept().await.unwrap();
            // A peer that gives up during the handshake is no reason to stop.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// What a far side shows who it is by: the agency's certificate.
pub(crate) fn acceptor(pki: &Pki) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    TlsAcceptor::from(Arc::new(showing(pki, config)))
}

/// The same, and it speaks TLS 1.3 with whom that authority knows, and with nobody else.
pub(crate) fn acceptor_for(pki: &Pki, clients: &Pki) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(clients.root().as_bytes()).unwrap())
        .unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap());
    let mut config = showing(pki, config);
    // Whoever asks for no protocol gets none.
    config.alpn_protocols = vec![connect::HTTP2.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn showing(
    pki: &Pki,
    config: rustls::ConfigBuilder<rustls::ServerConfig, rustls::server::WantsServerCert>,
) -> rustls::ServerConfig {
    let issued = pki.issue(AGENCY);
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    config.with_single_cert(chain, key).unwrap()
}
