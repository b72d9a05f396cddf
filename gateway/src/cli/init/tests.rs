use std::os::unix::fs::PermissionsExt as _;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use waymark_core::directory::{Severity, check};

use super::certificates::{SERVER_NAMES, client_name, is_certificate};
use super::*;
use crate::cli::client::CERT_FILE;
use crate::config::load_log_key;
use crate::tls::{Peer, ServerTls, TlsFiles};

fn made(options: &InitOptions) -> (tempfile::TempDir, Deployment) {
    let root = tempfile::tempdir().unwrap();
    let made = init_deployment(&root.path().join("new/area"), options).unwrap();
    (root, made)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn uris(path: &Path) -> Vec<String> {
    let der = CertificateDer::from_pem_slice(&fs::read(path).unwrap()).unwrap();
    Peer::parse(&der).unwrap().san_uris
}

#[test]
fn every_certificate_identity_gets_a_client_that_proves_it() {
    let (_root, made) = made(&InitOptions::default());
    let names: Vec<&str> = made.clients.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "AUD01",
            "CAM01",
            "EE123456",
            "LA882",
            "OT001",
            "PORT1",
            "R1L",
            "SC882",
            "SPEC1",
            "THER1",
            "admin-LA882",
            "auditor-LA882"
        ]
    );
    assert_eq!(
        uris(&made.clients["EE123456"].join(CERT_FILE)),
        ["waymark:test:agency:EE123456"]
    );
    assert_eq!(
        uris(&made.clients["admin-LA882"].join(CERT_FILE)),
        ["waymark:test:admin:LA882"]
    );
    assert_eq!(
        uris(&made.dir.join("tls/server.pem")),
        ["waymark:test:gateway:southmere"]
    );
    assert_eq!(
        uris(&made.dir.join("tls/outbound.pem")),
        ["waymark:test:gateway:southmere"]
    );
}

#[test]
fn what_is_secret_is_read_by_its_owner_alone() {
    let (_root, made) = made(&InitOptions::default());
    for private in [
        "keys/keyring",
        "keys/log.key",
        "ca.key",
        "tls/server.key",
        "tls/outbound.key",
        "clients/R1L/key.pem",
        "secrets/therapy-webhook",
        "secrets/therapy-callback",
    ] {
        assert_eq!(mode(&made.dir.join(private)), 0o600, "{private}");
    }
    for folder in ["", "keys", "tls", "clients", "secrets"] {
        assert_eq!(mode(&made.dir.join(folder)), 0o700, "{folder}");
    }
}

#[test]
fn the_configuration_names_files_that_can_be_used() {
    let (_root, made) = made(&InitOptions::default());
    let config = Config::load(&made.config).unwrap();
    Keyring::load(&config.keys.keyring).unwrap();
    assert_eq!(
        load_log_key(&config.keys.log).unwrap().vkey(),
        made.log_vkey
    );
    let files = TlsFiles {
        cert: config.tls.cert.clone(),
        key: config.tls.key.clone(),
        client_ca: config.tls.client_ca.clone(),
        crl: None,
    };
    ServerTls::load(files, Environment::Test).unwrap();
    assert_eq!(
        config
            .listen
            .mllp
            .iter()
            .map(|l| l.name.as_str())
            .collect::<Vec<_>>(),
        ["r1l"]
    );
    let fhir = config.listen.fhir.as_ref().unwrap();
    assert_eq!(
        fhir.targets,
        ["https://fhir.nhs.uk/Id/dos-service-id|2000099999"]
    );
    assert!(config.files.root.as_ref().unwrap().join("portage").is_dir());
    let files = read_folder(config.directory.initial.as_deref().unwrap()).unwrap();
    let directory = Directory::load(&files).unwrap();
    let errors = check(&directory, jiff::civil::date(2026, 3, 2))
        .into_iter()
        .filter(|f| f.severity == Severity::Error);
    assert_eq!(errors.count(), 0);
    for name in secret_names(&directory).keys() {
        let secret = config.secrets().find(name).unwrap();
        assert!(secret.expose().starts_with("whsec_"), "{name}");
    }
}

#[test]
fn client_and_server_shake_hands() {
    let (_root, made) = made(&InitOptions::default());
    let config = Config::load(&made.config).unwrap();
    let server = ServerTls::load((&config.tls).into(), Environment::Test).unwrap();
    let args = super::super::ClientArgs {
        config: made.config.clone(),
        identity: Some("admin".to_owned()),
        target: None,
        ca: None,
        cert: None,
        key: None,
    };
    let identity = args.resolve(super::super::ClientDuty::Agency).unwrap();
    assert_eq!(identity.target, "127.0.0.1:8443");
    for name in SERVER_NAMES {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        let mut client = rustls::ClientConnection::new(identity.rustls().unwrap(), name).unwrap();
        let mut server =
            rustls::ServerConnection::new(server.config(crate::tls::Protocol::Plain)).unwrap();
        for _ in 0..8 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                server.read_tls(&mut unread).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                client.read_tls(&mut unread).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        let peer = server.peer_certificates().unwrap().first().unwrap();
        assert_eq!(
            Peer::parse(peer).unwrap().san_uris,
            ["waymark:test:admin:LA882"]
        );
    }
}

#[test]
fn a_folder_that_holds_anything_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("area");
    fs::create_dir(&dir).unwrap();
    let made = init_deployment(&dir, &InitOptions::default()).unwrap();
    let key = fs::read(made.dir.join("keys/keyring")).unwrap();
    let refused = init_deployment(&dir, &InitOptions::default()).unwrap_err();
    assert!(
        refused.to_string().contains("never overwrites"),
        "{refused}"
    );
    assert_eq!(fs::read(made.dir.join("keys/keyring")).unwrap(), key);
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is left beside it");
}

#[test]
fn a_directory_that_does_not_load_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let wrong = SourceFile {
        path: "area.toml".to_owned(),
        text: "[area]\nid = 1\n".to_owned(),
    };
    let options = InitOptions {
        directory: vec![wrong],
        ..InitOptions::default()
    };
    let refused = init_deployment(&root.path().join("area"), &options).unwrap_err();
    assert!(refused.to_string().contains("area.toml:"), "{refused}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_live_deployment_is_live_throughout() {
    let (_root, made) = made(&InitOptions {
        environment: Environment::Live,
        ..InitOptions::default()
    });
    assert_eq!(
        uris(&made.clients["EE123456"].join(CERT_FILE)),
        ["waymark:live:agency:EE123456"]
    );
    assert_eq!(
        Config::load(&made.config).unwrap().gateway.environment,
        Environment::Live
    );
    assert!(
        made.log_vkey.starts_with("waymark/live/southmere+"),
        "{}",
        made.log_vkey
    );
}

#[test]
fn a_database_password_goes_to_a_private_file() {
    let database = Some("postgres://waymark:pw@localhost/waymark".to_owned());
    let (_root, made) = made(&InitOptions {
        database,
        ..InitOptions::default()
    });
    assert!(!fs::read_to_string(&made.config).unwrap().contains("pw@"));
    assert_eq!(mode(&made.dir.join("secrets/database-url")), 0o600);
    let url = Config::load(&made.config).unwrap().database_url().unwrap();
    assert_eq!(url.expose(), "postgres://waymark:pw@localhost/waymark");
}

#[test]
fn client_names_are_plain_folder_names() {
    assert_eq!(client_name("waymark:test:agency:EE123456"), "EE123456");
    assert_eq!(
        client_name("waymark:live:body-reader:R1L"),
        "body-reader-R1L"
    );
    assert_eq!(client_name("spiffe://area/../x"), "spiffe---area-..-x");
    assert!(
        !is_certificate("mllp:r1l")
            && !is_certificate("webhook:x")
            && !is_certificate("mesh:X26ABC2")
            && !is_certificate("file:x")
            && is_certificate("waymark:test:agency:X")
    );
}
