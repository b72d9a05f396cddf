//! Probes by every adapter that speaks TLS, against far sides that refuse us or say nothing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use waymark_core::directory::{AdapterKind, Endpoint};
use waymark_core::port::Deadline;
use zeroize::Zeroizing;

use super::*;
use crate::far_side::{self, AGENCY, Drawer, GATEWAY, Pki};
use crate::{AdapterContext, Adapters, Secrets};

const PATIENCE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(200);
const OVER_TLS: [AdapterKind; 4] = [
    AdapterKind::Grpc,
    AdapterKind::Webhook,
    AdapterKind::Hl7v2,
    AdapterKind::Fhir,
];

/// An endpoint at a host and port.
fn endpoint(kind: AdapterKind, host: &str, port: u16) -> Endpoint {
    let url = format!("url = \"https://{host}:{port}\"\nprivate_network = true");
    let settings = match kind {
        AdapterKind::Grpc => format!("{url}\npeer_identity = \"{AGENCY}\""),
        AdapterKind::Webhook => format!("{url}\nsigning_secrets = [\"secret:new\"]"),
        AdapterKind::Fhir => format!(
            "{url}\nmode = \"plain\"\nauth = \"mtls\"\ntarget = {{ value = \"1\" }}\nsource = {{ value = \"2\" }}"
        ),
        AdapterKind::Hl7v2 => format!(
            "host = \"{host}\"\nport = {port}\ntransport = \"tls\"\npeer_uri = \"{AGENCY}\"\nversion = \"2.5\"\n\
             ack_mode = \"original\"\nsending_app = \"WAYMARK\"\nsending_facility = \"WM01\"\n\
             receiving_app = \"PAEDPAS\"\nreceiving_facility = \"R1L\""
        ),
        AdapterKind::File => format!(
            "transport = \"sftp\"\nhost = \"{host}\"\nport = {port}\nprivate_network = true\nuser = \"waymark\"\n\
             directory = \"a\"\nkey = \"secret:ssh\"\nhost_keys = [\"SHA256:{}\"]",
            "A".repeat(43)
        ),
        AdapterKind::Mailbox | AdapterKind::Notify | AdapterKind::Mesh => unreachable!("{kind:?}"),
    };
    far_side::endpoint(kind, &settings)
}

/// What a probe says of each stage, and its words where it fails.
async fn probed(
    context: &AdapterContext,
    endpoint: &Endpoint,
    within: Duration,
) -> (Vec<(&'static str, Option<bool>)>, String) {
    let adapter = Adapters::new(context).unwrap().adapter(endpoint.adapter);
    assert_eq!(adapter.validate(endpoint), []);
    let stages = adapter.probe(endpoint, Deadline { within }).await.stages;
    let failed = stages.iter().find(|stage| stage.passed == Some(false));
    let words = failed.map(|stage| stage.detail.clone()).unwrap_or_default();
    let passed = |stage: ProbeStage| (stage.stage, stage.passed);
    (stages.into_iter().map(passed).collect(), words)
}

/// The stages of a probe that fails at one of them.
fn failing(at: Stage) -> Vec<(&'static str, Option<bool>)> {
    let told = |stage: Stage| match stage.cmp(&at) {
        Ordering::Less => (stage.word(), Some(true)),
        Ordering::Equal => (stage.word(), Some(false)),
        Ordering::Greater => (stage.word(), None),
    };
    Stage::ALL.map(told).into()
}

/// A far side that shakes hands, and then does this.
#[derive(Clone)]
enum Then {
    Waits,
    Closes,
    Says(Vec<u8>),
}

async fn serving(acceptor: TlsAcceptor, then: Then) -> (SocketAddr, JoinSet<()>) {
    let (listener, address) = far_side::listener().await;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            match &then {
                Then::Waits => kept.push(stream),
                Then::Closes => drop(stream.shutdown().await),
                Then::Says(words) => {
                    stream.write_all(words).await.unwrap();
                    kept.push(stream);
                }
            }
        }
    });
    (address, server)
}

#[tokio::test]
async fn a_peer_that_refuses_our_certificate_after_the_handshake_fails_tls() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let (address, _server) = serving(far_side::acceptor_for(&pki, &pki), Then::Waits).await;
    for own in [Some(stranger.issue(GATEWAY)), None] {
        let context = pki.context_with(own);
        for kind in OVER_TLS {
            let endpoint = endpoint(kind, "localhost", address.port());
            let (stages, words) = probed(&context, &endpoint, PATIENCE).await;
            assert_eq!(stages, failing(Stage::Tls), "{kind:?}: {words}");
            assert_eq!(
                words, "the peer did not take this gateway's certificate",
                "{kind:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_peer_that_takes_our_certificate_and_waits_passes_tls() {
    let pki = Pki::new();
    let (address, _server) = serving(far_side::acceptor_for(&pki, &pki), Then::Waits).await;
    for kind in [AdapterKind::Webhook, AdapterKind::Hl7v2] {
        let endpoint = endpoint(kind, "localhost", address.port());
        let (stages, words) = probed(&pki.context(), &endpoint, PATIENCE).await;
        assert_eq!(stages[..4], failing(Stage::Application)[..4], "{words}");
        assert_eq!(stages[4], ("application", None));
    }
}

#[tokio::test]
async fn a_peer_that_closes_after_the_handshake_fails_tls() {
    let pki = Pki::new();
    let (address, _server) = serving(far_side::acceptor_for(&pki, &pki), Then::Closes).await;
    for kind in [AdapterKind::Grpc, AdapterKind::Webhook, AdapterKind::Hl7v2] {
        let endpoint = endpoint(kind, "localhost", address.port());
        let (stages, words) = probed(&pki.context(), &endpoint, PATIENCE).await;
        assert_eq!(stages, failing(Stage::Tls), "{kind:?}");
        assert!(
            words.contains("closed the connection after the TLS handshake"),
            "{words}"
        );
    }
}

#[tokio::test]
async fn who_names_http2_and_does_not_speak_it_fails_the_application() {
    let pki = Pki::new();
    let settings = b"\0\0\0\x04\0\0\0\0\0".to_vec();
    let pings = b"\0\0\x08\x06\0\0\0\0\0waymark.".repeat(HTTP2_FRAMES_MAX);
    let http1 = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    for (then, said) in [
        (Then::Waits, "not reached in time"),
        // It may say this before it has seen our certificate.
        (Then::Says(settings), "not reached in time"),
        (Then::Says(http1), "does not speak"),
        (Then::Says(pings), "does not speak"),
    ] {
        let (address, _server) = serving(far_side::acceptor_for(&pki, &pki), then).await;
        let endpoint = endpoint(AdapterKind::Grpc, "localhost", address.port());
        let within = Duration::from_secs(1);
        let (stages, words) = probed(&pki.context(), &endpoint, within).await;
        assert_eq!(stages, failing(Stage::Application), "{words}");
        assert!(words.contains(said), "{words}");
    }
}

/// A key for SFTP beside the webhook's secrets.
struct WithKey;

impl Secrets for WithKey {
    fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        use russh::keys::ssh_key::LineEnding;
        use russh::keys::ssh_key::private::{Ed25519Keypair, PrivateKey};

        if name != "ssh" {
            return Drawer.secret(name);
        }
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]));
        let text = key.to_openssh(LineEnding::LF).unwrap();
        Some(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

fn context(pki: &Pki) -> AdapterContext {
    AdapterContext {
        secrets: Arc::new(WithKey),
        ..pki.context()
    }
}

#[tokio::test]
async fn a_peer_that_takes_the_connection_and_says_nothing_fails_tls() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for kind in OVER_TLS.into_iter().chain([AdapterKind::File]) {
        let endpoint = endpoint(kind, "127.0.0.1", port);
        let (stages, words) = probed(&context(&pki), &endpoint, MOMENT).await;
        assert_eq!(stages, failing(Stage::Tls), "{kind:?}");
        assert!(words.contains("in time"), "{words}");
    }
}

#[test]
fn a_name_server_that_says_nothing_fails_the_name() {
    // Names are looked up by the runtime's one thread for that, which never gets to it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (end, busy) = std::sync::mpsc::sync_channel::<()>(1);
    let pki = Pki::new();
    runtime.block_on(async {
        let _busy = tokio::task::spawn_blocking(move || busy.recv());
        for kind in OVER_TLS.into_iter().chain([AdapterKind::File]) {
            let endpoint = endpoint(kind, "agency.invalid", 8443);
            let (stages, words) = probed(&context(&pki), &endpoint, MOMENT).await;
            assert_eq!(stages, failing(Stage::Name), "{kind:?}: {words}");
            assert!(words.contains("in time"), "{words}");
        }
    });
    runtime.shutdown_background();
    drop(end);
}

#[tokio::test]
async fn sftp_without_its_key_passes_no_stage() {
    let pki = Pki::new();
    let endpoint = endpoint(AdapterKind::File, "127.0.0.1", 22);
    let (stages, words) = probed(&pki.context(), &endpoint, PATIENCE).await;
    assert_eq!(stages, failing(Stage::Name));
    assert!(words.contains("secret"), "{words}");
}
