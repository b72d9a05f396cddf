use std::fs;
use std::path::Path;

use futures::StreamExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::lifecycle::Lifecycle;

const DRAIN: Duration = Duration::from_secs(5);
const SCHOOL: &str = "waymark:test:agency:EE123456";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).unwrap();
    let (pem, der) = (certificate.pem(), certificate.der().clone());
    Authority {
        issuer: Issuer::new(params, key),
        pem,
        der,
    }
}

struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    fn client(&self, uris: &[&str], serial: u64) -> Leaf {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(2099, 1, 1);
        self.sign(&params)
    }

    fn server(&self, not_after_year: i32) -> Leaf {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = date_time_ymd(not_after_year, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: vec![certificate.der().clone()],
            pem: certificate.pem(),
            key,
        }
    }

    fn revokes(&self, serial: u64) -> String {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn connector(&self, client: Option<&Leaf>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
                builder
                    .with_client_auth_cert(leaf.chain.clone(), key)
                    .unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn write(folder: &Path, authority: &Authority, server: &Leaf, crl: Option<String>) -> TlsFiles {
    let files = TlsFiles {
        cert: folder.join("server.pem"),
        key: folder.join("server.key"),
        client_ca: folder.join("ca.pem"),
        crl: crl.as_ref().map(|_| folder.join("crl.pem")),
    };
    fs::write(&files.cert, &server.pem).unwrap();
    fs::write(&files.key, server.key.serialize_pem()).unwrap();
    fs::write(&files.client_ca, &authority.pem).unwrap();
    if let (Some(path), Some(list)) = (&files.crl, crl) {
        fs::write(path, list).unwrap();
    }
    files
}

struct Listening {
    _folder: TempDir,
    authority: Authority,
    address: std::net::SocketAddr,
    connections: Connections,
    lifecycle: Lifecycle,
}

async fn listen(crl_of: Option<u64>) -> Listening {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let crl = crl_of.map(|serial| authority.revokes(serial));
    let files = write(folder.path(), &authority, &authority.server(2099), crl);
    let tls = ServerTls::load(files, Environment::Test).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lifecycle = Lifecycle::new(DRAIN);
    let connections = accept(listener, tls, Protocol::Plain, &lifecycle);
    Listening {
        _folder: folder,
        authority,
        address,
        connections,
        lifecycle,
    }
}

impl Listening {
    /// Whether a byte goes both ways: under TLS 1.3 a client learns of its refusal with the first read.
    async fn lets_in(&mut self, client: Option<&Leaf>) -> Result<Arc<Peer>, std::io::Error> {
        let connector = self.authority.connector(client);
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(self.address).await?;
        let theirs = async {
            let mut stream = connector.connect(name, stream).await?;
            stream.write_all(b"?").await?;
            let mut answer = [0];
            stream.read_exact(&mut answer).await?;
            Ok(())
        };
        let ours = async {
            let mut connection = self.connections.next().await.unwrap().unwrap();
            let mut question = [0];
            connection.read_exact(&mut question).await.unwrap();
            connection.write_all(b"!").await.unwrap();
            connection.flush().await.unwrap();
            Arc::clone(connection.peer())
        };
        tokio::pin!(theirs);
        tokio::select! {
            refused = &mut theirs => refused.map(|()| unreachable!("nothing answers before it is accepted")),
            peer = ours => { theirs.await?; Ok(peer) }
        }
    }
}

#[tokio::test]
async fn a_certificate_is_parsed_into_who_the_peer_is() {
    let mut listening = listen(None).await;
    let client = listening
        .authority
        .client(&[SCHOOL, "urn:example:other"], 0x0102);
    let peer = listening.lets_in(Some(&client)).await.unwrap();
    assert_eq!(peer.san_uris, [SCHOOL, "urn:example:other"]);
    assert_eq!(peer.serial, "0102");
    assert_eq!(peer.not_after.to_string(), "2099-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let mut listening = listen(None).await;
    let refused = listening.lets_in(None).await.unwrap_err();
    assert!(
        refused.to_string().contains("CertificateRequired"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let mut listening = listen(None).await;
    let stranger = authority().client(&[SCHOOL], 1);
    let refused = listening.lets_in(Some(&stranger)).await.unwrap_err();
    assert!(refused.to_string().contains("alert"), "{refused}");
}

#[tokio::test]
async fn a_certificate_of_the_other_environment_is_refused() {
    let mut listening = listen(None).await;
    for uri in ["waymark:live:agency:EE123456", "waymark:agency:EE123456"] {
        let live = listening.authority.client(&[uri], 1);
        let refused = listening.lets_in(Some(&live)).await.unwrap_err();
        assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_neighbour_is_not() {
    let mut listening = listen(Some(7)).await;
    let revoked = listening.authority.client(&[SCHOOL], 7);
    let refused = listening.lets_in(Some(&revoked)).await.unwrap_err();
    assert!(
        refused.to_string().contains("CertificateRevoked"),
        "{refused}"
    );
    let good = listening.authority.client(&[SCHOOL], 8);
    assert!(listening.lets_in(Some(&good)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped_at_the_deadline() {
    let listening = listen(None).await;
    let begun = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(listening.address).await.unwrap();
    let mut byte = [0];
    assert_eq!(silent.read(&mut byte).await.unwrap(), 0);
    assert!(
        begun.elapsed() >= HANDSHAKE_TIMEOUT,
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn connections_end_when_the_process_stops() {
    let mut listening = listen(None).await;
    listening.lifecycle.stop();
    assert!(listening.connections.next().await.is_none());
}

#[test]
fn replaced_files_are_in_force_without_a_restart_and_broken_ones_never_are() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let files = write(folder.path(), &authority, &authority.server(2090), None);
    let tls = ServerTls::load(files.clone(), Environment::Test).unwrap();
    assert!(!tls.reload_if_changed().unwrap(), "nothing changed");

    let later = authority.server(2095);
    write(folder.path(), &authority, &later, None);
    touch(&files.cert, 1);
    assert!(tls.reload_if_changed().unwrap());
    assert_eq!(tls.not_after().to_string(), "2095-01-01T00:00:00.000Z");

    fs::write(&files.key, "no key").unwrap();
    touch(&files.key, 2);
    assert!(matches!(
        tls.reload_if_changed(),
        Err(TlsError::File(FileError::NotPem { .. }))
    ));
    assert!(tls.is_stale());
    assert_eq!(tls.not_after().to_string(), "2095-01-01T00:00:00.000Z");
}

/// Gives a file a time of change of its own: two writes may fall into one tick of the file system's clock.
fn touch(path: &Path, minutes: u64) {
    let file = fs::File::options().append(true).open(path).unwrap();
    let at = file.metadata().unwrap().modified().unwrap() + Duration::from_secs(60 * minutes);
    file.set_modified(at).unwrap();
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let mut server = authority.server(2099);
    server.key = KeyPair::generate().unwrap();
    let files = write(folder.path(), &authority, &server, None);
    assert!(matches!(
        ServerTls::load(files, Environment::Test),
        Err(TlsError::Server(_))
    ));
}

#[test]
fn a_file_over_the_limit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let files = write(folder.path(), &authority, &authority.server(2099), None);
    let over = usize::try_from(FILE_BYTES_MAX).unwrap() + 1;
    fs::write(&files.client_ca, vec![b'\n'; over]).unwrap();
    let refused = ServerTls::load(files.clone(), Environment::Test).unwrap_err();
    assert!(matches!(
        refused,
        TlsError::File(FileError::TooLarge { .. })
    ));
    fs::write(&files.client_ca, vec![b'\n'; over - 1]).unwrap();
    let refused = ServerTls::load(files, Environment::Test).unwrap_err();
    assert!(matches!(refused, TlsError::File(FileError::Empty { .. })));
}

#[test]
fn a_certificate_with_too_many_names_is_refused() {
    let authority = authority();
    let uris: Vec<String> = (0..=SAN_URIS_MAX)
        .map(|n| format!("urn:example:{n}"))
        .collect();
    let all: Vec<&str> = uris.iter().map(String::as_str).collect();
    let refused = Peer::parse(&authority.client(&all, 1).chain[0]);
    assert_eq!(refused, Err(PeerError::TooManyNames));
    let most = Peer::parse(&authority.client(&all[1..], 1).chain[0]).unwrap();
    assert_eq!(most.san_uris.len(), SAN_URIS_MAX);
}

#[test]
fn a_day_that_has_not_passed_whole_is_not_counted() {
    let day = 24 * 60 * 60 * 1000;
    let at = Timestamp::from_ms;
    assert_eq!(days_between(at(0), at(day)), 1);
    assert_eq!(days_between(at(0), at(day - 1)), 0);
    assert_eq!(days_between(at(1), at(0)), -1);
}
