//! How a command reaches the gateway: mutual TLS with one client identity of a deployment.
//!
//! `waymark init` writes `client.toml` beside `waymark.toml`; a machine that only sends needs that file, the
//! authority's certificate and its own client folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use waymark_tlog::note::VerifierKey;
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::config::Config;

/// The profile's file name, beside waymark.toml.
pub(super) const PROFILE_FILE: &str = "client.toml";
/// A client's certificate within its folder.
pub(super) const CERT_FILE: &str = "cert.pem";
/// A client's private key within its folder.
pub(super) const KEY_FILE: &str = "key.pem";

/// The longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a call may take until its answer begins.
const CALL_TIMEOUT: Duration = Duration::from_secs(70);
/// How often a quiet connection is tried.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How to reach the gateway, and as whom.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct ClientArgs {
    /// The deployment's waymark.toml; client.toml beside it says how to reach the gateway.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "waymark.toml",
        env = "WAYMARK_CONFIG"
    )]
    pub config: PathBuf,
    /// The client identity to use: a folder below clients/, such as EE123456 or admin.
    #[arg(long = "as", value_name = "NAME")]
    pub identity: Option<String>,
    /// The gateway, in place of the one that client.toml names.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: Option<String>,
    /// The authority that signed the gateway's certificate, PEM.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The client's certificate, PEM, in place of one below clients/.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// What a command needs its identity for, where none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientDuty {
    /// To send and receive for an agency.
    Agency,
    /// To administer.
    Admin,
    /// To audit.
    Auditor,
}

/// `client.toml`: how this machine's commands reach the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Profile {
    /// Where the gateway's gRPC listener is.
    pub(super) target: Option<String>,
    /// The authority's certificate.
    pub(super) ca: Option<PathBuf>,
    /// The folder of client identities.
    pub(super) clients: Option<PathBuf>,
    /// The log's public key.
    pub(super) log_vkey: Option<String>,
    /// Which identity is used where none is named.
    pub(super) default: Defaults,
}

/// Which identity is used for what, where none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Defaults {
    /// To send and receive.
    pub(super) agency: Option<String>,
    /// To administer.
    pub(super) admin: Option<String>,
    /// To audit.
    pub(super) auditor: Option<String>,
}

impl Defaults {
    fn of(&self, duty: ClientDuty) -> Option<&str> {
        match duty {
            ClientDuty::Agency => self.agency.as_deref(),
            ClientDuty::Admin => self.admin.as_deref(),
            ClientDuty::Auditor => self.auditor.as_deref(),
        }
    }
}

/// Everything that a connection needs, read and ready.
pub struct ClientIdentity {
    /// Where the gateway is, `host:port`.
    pub target: String,
    /// The authority, PEM.
    pub ca_pem: Vec<u8>,
    /// The client's certificate, PEM.
    pub cert_pem: Vec<u8>,
    /// Its private key, PEM.
    pub key_pem: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientIdentity")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl ClientArgs {
    /// The folder that waymark.toml stands in.
    pub(super) fn folder(&self) -> &Path {
        self.config
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// Connects as the identity asked for, else as the profile's for this duty.
    ///
    /// # Errors
    /// When files are missing, or the gateway does not answer.
    pub async fn connect(&self, duty: ClientDuty) -> anyhow::Result<Channel> {
        self.resolve(duty)?.connect().await
    }

    /// Finds and reads everything that a connection needs.
    ///
    /// # Errors
    /// When no identity can be chosen, or a file is missing.
    pub fn resolve(&self, duty: ClientDuty) -> anyhow::Result<ClientIdentity> {
        let profile = self.profile()?;
        let folder = self.folder();
        let target = match (&self.target, &profile.target) {
            (Some(target), _) | (None, Some(target)) => target.clone(),
            (None, None) => Config::load(&self.config)
                .with_context(|| {
                    format!(
                        "no --target, no {PROFILE_FILE}; read {}",
                        self.config.display()
                    )
                })?
                .listen
                .grpc
                .to_string(),
        };
        let ca = match (&self.ca, &profile.ca) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) => folder.join(path),
            (None, None) => folder.join("ca.pem"),
        };
        let (cert, key) = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            _ => {
                let clients =
                    folder.join(profile.clients.as_deref().unwrap_or(Path::new("clients")));
                let chosen = choose(&clients, self.identity.as_deref(), profile.default.of(duty))?;
                (chosen.join(CERT_FILE), chosen.join(KEY_FILE))
            }
        };
        let read = |path: &Path| {
            std::fs::read(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
        };
        Ok(ClientIdentity {
            target,
            ca_pem: read(&ca)?,
            cert_pem: read(&cert)?,
            key_pem: Zeroizing::new(read(&key)?),
        })
    }

    /// The profile beside waymark.toml; empty when there is none.
    pub(super) fn profile(&self) -> anyhow::Result<Profile> {
        let path = self.folder().join(PROFILE_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|e| Failure::usage(format!("{}: {e}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Profile::default()),
            Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))),
        }
    }

    /// The log's public key as this machine knows it: what proofs are verified with.
    pub(super) fn log_vkey(&self) -> anyhow::Result<Option<VerifierKey>> {
        let Some(text) = self.profile()?.log_vkey else {
            return Ok(None);
        };
        let key = VerifierKey::parse(text.trim());
        Ok(Some(key.map_err(|e| {
            Failure::usage(format!("log_vkey of {PROFILE_FILE}: {e}"))
        })?))
    }
}

/// The folder of a client: the one named, or the only one whose name begins with it, as `admin` for `admin-LA882`.
fn choose(clients: &Path, named: Option<&str>, default: Option<&str>) -> anyhow::Result<PathBuf> {
    let mut known: Vec<String> = std::fs::read_dir(clients)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    known.sort();
    let list = || {
        if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        }
    };
    let Some(name) = named.or(default) else {
        let text = format!(
            "no client identity: give --as NAME, or --cert and --key ({}: {})",
            clients.display(),
            list()
        );
        return Err(Failure::usage(text));
    };
    if known.iter().any(|k| k == name) {
        return Ok(clients.join(name));
    }
    let prefix = format!("{name}-");
    let mut longer = known.iter().filter(|k| k.starts_with(&prefix));
    match (longer.next(), longer.next()) {
        (Some(one), None) => Ok(clients.join(one)),
        _ => Err(Failure::usage(format!(
            "no client identity {name} in {}: there are {}",
            clients.display(),
            list()
        ))),
    }
}

impl ClientIdentity {
    /// Opens a connection; it is used by every call of the command.
    ///
    /// # Errors
    /// When the gateway does not answer, or one side refuses the other's certificate.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let uri = format!("https://{}", self.target);
        let (host, _) = host_and_port(&self.target)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .identity(Identity::from_pem(&self.cert_pem, &*self.key_pem))
            .domain_name(host);
        let endpoint = Endpoint::from_shared(uri.clone())
            .and_then(|e| e.tls_config(tls))
            .map_err(|e| Failure::usage(format!("{uri}: {}", chain(&e))))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_while_idle(true);
        let connected = endpoint.connect().await;
        connected.map_err(|e| Failure::unreachable(format!("the gateway at {}", self.target), e))
    }

    /// TLS for a connection that is not HTTP, such as MLLP.
    ///
    /// # Errors
    /// When certificate and key do not make a client.
    pub(super) fn rustls(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&self.ca_pem) {
            roots
                .add(root.context("read the authority")?)
                .context("read the authority")?;
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert_pem)
            .collect::<Result<_, _>>()
            .context("read the client's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&self.key_pem).context("read the client's key")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .context("use the client's certificate and key")?;
        Ok(Arc::new(config))
    }
}

/// Splits `host:port`; an IPv6 address stands in brackets.
pub(super) fn host_and_port(target: &str) -> anyhow::Result<(String, u16)> {
    let split = target
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = split.filter(|(host, _)| !host.is_empty()) else {
        return Err(Failure::usage(format!("{target} is not HOST:PORT")));
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    Ok((bare.to_owned(), port))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        dir
    }

    #[test]
    fn a_client_is_found_by_name_by_beginning_or_by_default() {
        let dir = clients(&["EE123456", "admin-LA882", "auditor-LA882"]);
        let chosen = |named, default| {
            let path = choose(dir.path(), named, default).map_err(|e| e.to_string())?;
            Ok::<_, String>(path.file_name().unwrap().to_string_lossy().into_owned())
        };
        assert_eq!(chosen(Some("EE123456"), None), Ok("EE123456".to_owned()));
        assert_eq!(
            chosen(Some("admin"), Some("EE123456")),
            Ok("admin-LA882".to_owned())
        );
        assert_eq!(
            chosen(None, Some("auditor")),
            Ok("auditor-LA882".to_owned())
        );
        let unknown = chosen(Some("R1L"), None).unwrap_err();
        assert!(
            unknown.contains("EE123456, admin-LA882, auditor-LA882"),
            "{unknown}"
        );
        assert!(chosen(None, None).unwrap_err().contains("--as NAME"));
    }

    #[test]
    fn a_beginning_that_fits_two_clients_chooses_none() {
        let dir = clients(&["admin-A", "admin-B"]);
        assert!(choose(dir.path(), Some("admin"), None).is_err());
    }

    #[test]
    fn targets_are_host_and_port() {
        assert_eq!(
            host_and_port("127.0.0.1:8443").unwrap(),
            ("127.0.0.1".to_owned(), 8443)
        );
        assert_eq!(
            host_and_port("[::1]:8443").unwrap(),
            ("::1".to_owned(), 8443)
        );
        for wrong in ["localhost", ":1", "host:99999", "host:"] {
            assert!(host_and_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_profile_with_an_unknown_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PROFILE_FILE), "targt = \"x:1\"").unwrap();
        let args = ClientArgs {
            config: dir.path().join("waymark.toml"),
            identity: None,
            target: None,
            ca: None,
            cert: None,
            key: None,
        };
        assert!(args.profile().unwrap_err().to_string().contains("targt"));
    }
}
