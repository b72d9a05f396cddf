//! What the tests of both ends share: a clock, an intake that notes what it is given, certificates.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt};
use waymark_core::error::ErrorKind;
use waymark_core::id::{Reference, ReferralId};
use waymark_core::port::{Inbound, Intake, IntakeAnswer, IntakeError};
use waymark_core::time::{Clock, Timestamp};

/// A clock that stands still.
pub(super) struct TestClock;

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(1_772_447_400_000)
    }
}

/// Answers every message the same way, and keeps them.
pub(super) struct TestIntake {
    pub(super) taken: Mutex<Vec<Inbound>>,
    answer: Result<(), IntakeError>,
    /// How often it can take nothing before it answers so.
    busy: Mutex<u32>,
}

impl TestIntake {
    pub(super) fn accepting() -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            answer: Ok(()),
            busy: Mutex::default(),
        })
    }

    pub(super) fn busy(times: u32) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            answer: Ok(()),
            busy: Mutex::new(times),
        })
    }

    pub(super) fn refusing(error: IntakeError) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            answer: Err(error),
            busy: Mutex::default(),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

#[async_trait]
impl Intake for TestIntake {
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        self.taken.lock().unwrap().push(message);
        let mut busy = self.busy.lock().unwrap();
        if let Some(left) = busy.checked_sub(1) {
            *busy = left;
            return Err(IntakeError {
                kind: ErrorKind::Unavailable,
                violations: Vec::new(),
                reason: "BUSY",
            });
        }
        let referral = ReferralId::from_bytes([1; 16]);
        let answer = IntakeAnswer {
            referral,
            reference: Reference::of(referral),
            repeated: false,
            state: None,
        };
        self.answer.clone().map(|()| answer)
    }
}

/// An intake that never answers.
pub(super) struct StuckIntake;

#[async_trait]
impl Intake for StuckIntake {
    async fn take(&self, _message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        std::future::pending().await
    }
}

/// Reads one whole frame from a stream, byte by byte so that nothing behind it is lost.
pub(super) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x1c\r") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let body = bytes.strip_prefix(b"\x0b")?.strip_suffix(b"\x1c\r")?;
    String::from_utf8(body.to_vec()).ok()
}

/// An authority, and the certificates that it signs.
pub(super) struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self {
            authority: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    fn sign(&self, uri: Option<&str>) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        if let Some(uri) = uri {
            params
                .subject_alt_names
                .push(SanType::URI(uri.try_into().unwrap()));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![certificate.der().clone()], key)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        Arc::new(roots)
    }

    pub(super) fn client(&self, uri: Option<&str>) -> Arc<ClientConfig> {
        let (chain, key) = self.sign(uri);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    pub(super) fn server(&self, uri: Option<&str>) -> Arc<ServerConfig> {
        let (chain, key) = self.sign(uri);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}
