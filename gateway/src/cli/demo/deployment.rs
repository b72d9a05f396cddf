//! The demo's deployment: made by `waymark init`, then told where its agencies really are.
//!
//! Every path in its configuration is absolute and nothing is taken from the environment, so that a demo never
//! touches another deployment's database.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use toml::{Table, Value};
use tonic::transport::Channel;
use waymark_adapters::webhook::sign::WebhookSecret;
use waymark_core::directory::Directory;
use waymark_core::time::Clock as _;

use super::therapy::{self, Trust};
use super::{hospital, post, samples};
use crate::app::{App, read_folder};
use crate::cli::client::{ClientArgs, ClientDuty, PROFILE_FILE};
use crate::cli::init::{Deployment, InitOptions, Ports, init_deployment};
use crate::cli::pki::{Authority, CertificateAsk};
use crate::clock::SystemClock;
use crate::config::Config;

/// The file of the sample directory that endpoints stand in.
const SERVICES_FILE: &str = "directory/services.toml";
/// The hospital's endpoint.
const HOSPITAL_ENDPOINT: &str = "r1l-mllp";
/// The specialist team's endpoint.
const SPECIALIST_ENDPOINT: &str = "specialist-mailbox";
/// The hospital's listener at the gateway.
const HOSPITAL_LISTENER: &str = "r1l";
/// Secrets that the therapy service shares with the gateway.
const SIGNING_SECRET: &str = "therapy-webhook";
const CALLBACK_SECRET: &str = "therapy-callback";
/// The identity that the therapy service's certificate proves.
const THERAPY_IDENTITY: &str = "waymark:test:agency:THER1";
/// Days that its certificate holds.
const CERTIFICATE_DAYS: u32 = 7;
/// Where samples for the reader stand in the deployment.
const SAMPLES_FOLDER: &str = "referrals";
/// Paths within the configuration, by section and key.
const PATHS: [(&str, &str); 9] = [
    ("keys", "keyring"),
    ("keys", "log"),
    ("tls", "cert"),
    ("tls", "key"),
    ("tls", "client_ca"),
    ("outbound", "cert"),
    ("outbound", "key"),
    ("outbound", "roots"),
    ("secrets", "dir"),
];

/// Where the demo's agencies are, and what the directory must know of them besides.
pub(super) struct FarSides {
    /// The hospital's MLLP listener.
    pub(super) hospital: SocketAddr,
    /// The therapy service's HTTPS listener.
    pub(super) therapy: SocketAddr,
    /// The key that the specialist team signs receipts with.
    pub(super) receipt_key: String,
}

/// A deployment of the demo's own.
pub(super) struct Place {
    made: Deployment,
    /// How its gateway runs.
    pub(super) config: Config,
    settings: Table,
    /// Removes the folder at the end, where nobody asked to keep it.
    _temporary: Option<TempDir>,
}

impl Place {
    /// Makes it, in a folder of its own or in the one asked for.
    ///
    /// # Errors
    /// When the folder holds anything, or a file cannot be written.
    pub(super) fn make(dir: Option<&Path>, far: &FarSides) -> anyhow::Result<Self> {
        let (dir, temporary) = match dir {
            Some(dir) => (dir.to_owned(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("waymark-demo-").tempdir();
                let temporary = temporary.context("make a folder for the demo")?;
                (temporary.path().join("demo"), Some(temporary))
            }
        };
        let made = init_deployment(
            &dir,
            &InitOptions {
                ports: Ports::FREE,
                ..InitOptions::default()
            },
        )?;
        point_at(&made.dir.join(SERVICES_FILE), far)?;
        write_spare(&made.dir)?;
        let mut settings = read_table(&made.config)?;
        make_absolute(&mut settings, &made.dir)?;
        let text = toml::to_string(&settings).context("write the demo's configuration")?;
        let config = Config::assemble(&text, &made.config.display().to_string(), &[])?;
        Ok(Self {
            made,
            config,
            settings,
            _temporary: temporary,
        })
    }

    /// Its folder.
    pub(super) fn dir(&self) -> &Path {
        &self.made.dir
    }

    /// Its waymark.toml.
    pub(super) fn config_path(&self) -> &Path {
        &self.made.config
    }

    /// The sample that is left for the reader to send.
    pub(super) fn spare(&self) -> PathBuf {
        self.made.dir.join(SAMPLES_FOLDER).join(samples::SPARE)
    }

    /// The log's public key as `init` gave it out, before the gateway first ran.
    pub(super) fn log_vkey(&self) -> &str {
        &self.made.log_vkey
    }

    /// The directory, with the agencies' addresses in it.
    ///
    /// # Errors
    /// When it does not load.
    pub(super) fn directory(&self) -> anyhow::Result<Directory> {
        let files = read_folder(&self.made.dir.join("directory"))?;
        Directory::load(&files).map_err(|findings| {
            let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the demo's directory does not load:\n{}", all.join("\n"))
        })
    }

    /// What the therapy service trusts and is trusted by.
    ///
    /// # Errors
    /// When the development authority cannot sign, or a secret is missing.
    pub(super) fn therapy_trust(&self) -> anyhow::Result<Trust> {
        let authority = Authority::load(&self.made.dir)?;
        let ask = CertificateAsk {
            common_name: "Southmere Children's Therapies".to_owned(),
            uris: vec![THERAPY_IDENTITY.to_owned()],
            names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            days: CERTIFICATE_DAYS,
        };
        let issued = authority.issue(&ask, SystemClock.now().london_date())?;
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
        let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("use the therapy service's certificate")?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(authority.cert_pem().as_bytes()) {
            roots.add(root?)?;
        }
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust {
            server: Arc::new(server),
            client: Arc::new(client),
            signing: self.secret(SIGNING_SECRET)?,
            callback: self.secret(CALLBACK_SECRET)?,
        })
    }

    fn secret(&self, name: &str) -> anyhow::Result<WebhookSecret> {
        let path = self.made.dir.join("secrets").join(name);
        let text = zeroize::Zeroizing::new(
            std::fs::read(&path).with_context(|| format!("read {}", path.display()))?,
        );
        WebhookSecret::parse(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Connects to the gateway as one of the directory's identities.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn connect(&self, name: &str, gateway: SocketAddr) -> anyhow::Result<Channel> {
        let args = ClientArgs {
            config: self.made.config.clone(),
            identity: Some(name.to_owned()),
            target: Some(gateway.to_string()),
            ca: None,
            cert: None,
            key: None,
        };
        args.connect(ClientDuty::Agency)
            .await
            .with_context(|| format!("connect as {name}"))
    }

    /// Writes the addresses that the gateway took into waymark.toml and client.toml, so that commands find it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn settle(&self, app: &App, grpc: SocketAddr) -> anyhow::Result<()> {
        let mut settings = self.settings.clone();
        let listen = section(&mut settings, "listen")?;
        listen.insert("grpc".to_owned(), Value::String(grpc.to_string()));
        for (key, address) in [("metrics", app.monitor), ("webhook", app.callback)] {
            if let Some(address) = address {
                listen.insert(key.to_owned(), Value::String(address.to_string()));
            }
        }
        for listener in listen
            .get_mut("mllp")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let Some(listener) = listener.as_table_mut() else {
                continue;
            };
            let name = listener
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            if let Some(address) = app.mllp.get(&name) {
                listener.insert("address".to_owned(), Value::String(address.to_string()));
            }
        }
        write_table(
            &self.made.config,
            &settings,
            "# The demo's gateway, with the ports that it took.",
        )?;
        let path = self.made.dir.join(PROFILE_FILE);
        let mut profile = read_table(&path)?;
        profile.insert("target".to_owned(), Value::String(grpc.to_string()));
        write_table(&path, &profile, "# How commands reach the demo's gateway.")
    }

    /// Where the gateway takes the hospital's messages.
    ///
    /// # Errors
    /// When it has no such listener.
    pub(super) fn hospital_listener(app: &App) -> anyhow::Result<SocketAddr> {
        app.mllp
            .get(HOSPITAL_LISTENER)
            .copied()
            .context("the gateway has no listener for the hospital")
    }
}

/// Puts the agencies' addresses into the directory, and short pauses between attempts.
fn point_at(path: &Path, far: &FarSides) -> anyhow::Result<()> {
    let mut services = read_table(path)?;
    let endpoints = services
        .get_mut("endpoint")
        .and_then(Value::as_array_mut)
        .context("no endpoints")?;
    let mut found = 0;
    for endpoint in endpoints.iter_mut().filter_map(Value::as_table_mut) {
        let id = endpoint
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let settings = match id.as_str() {
            HOSPITAL_ENDPOINT => vec![
                ("host", Value::String(far.hospital.ip().to_string())),
                ("port", Value::Integer(far.hospital.port().into())),
            ],
            therapy::ENDPOINT => vec![
                (
                    "url",
                    Value::String(format!("https://{}{}", far.therapy, therapy::PATH)),
                ),
                ("private_network", Value::Boolean(true)),
                ("peer_identity", Value::String(THERAPY_IDENTITY.to_owned())),
            ],
            SPECIALIST_ENDPOINT => {
                let mut key = Table::new();
                key.insert("id".to_owned(), Value::String(post::KEY_ID.to_owned()));
                key.insert("ed25519".to_owned(), Value::String(far.receipt_key.clone()));
                vec![("receipt_keys", Value::Array(vec![Value::Table(key)]))]
            }
            _ => continue,
        };
        found += 1;
        let own = section(endpoint, "settings")?;
        own.extend(
            settings
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value)),
        );
        let retry = section(endpoint, "retry")?;
        retry.insert("first".to_owned(), Value::String("200ms".to_owned()));
        retry.insert("cap".to_owned(), Value::String("1s".to_owned()));
    }
    if found != 3 {
        bail!(
            "the sample directory has not the endpoints of {}, {} and the specialist team",
            hospital::AGENCY,
            therapy::AGENCY
        );
    }
    write_table(
        path,
        &services,
        "# The sample's services, with the demo's agencies at their real addresses.",
    )
}

fn write_spare(dir: &Path) -> anyhow::Result<()> {
    let folder = dir.join(SAMPLES_FOLDER);
    std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(samples::SPARE);
    std::fs::write(&path, samples::SPARE_JSON).with_context(|| format!("write {}", path.display()))
}

/// Makes every path of a configuration absolute, the database's included.
fn make_absolute(settings: &mut Table, dir: &Path) -> anyhow::Result<()> {
    for (name, key) in PATHS {
        absolute(section(settings, name)?, key, dir);
    }
    absolute(section(settings, "directory")?, "initial", dir);
    let database = section(settings, "database")?;
    let url = database
        .get("url")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let file = url
        .strip_prefix("sqlite://")
        .context("the demo's database is not SQLite")?;
    let url = format!("sqlite://{}", dir.join(file).display());
    database.insert("url".to_owned(), Value::String(url));
    Ok(())
}

fn absolute(section: &mut Table, key: &str, dir: &Path) {
    if let Some(Value::String(path)) = section.get_mut(key) {
        *path = dir.join(&*path).display().to_string();
    }
}

fn section<'t>(table: &'t mut Table, name: &str) -> anyhow::Result<&'t mut Table> {
    let inner = table
        .entry(name)
        .or_insert_with(|| Value::Table(Table::new()));
    inner
        .as_table_mut()
        .with_context(|| format!("{name} is no table"))
}

fn read_table(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("read {}", path.display()))
}

fn write_table(path: &Path, table: &Table, head: &str) -> anyhow::Result<()> {
    let body = toml::to_string(table).with_context(|| format!("write {}", path.display()))?;
    std::fs::write(path, format!("{head}\n\n{body}"))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> FarSides {
        FarSides {
            hospital: "127.0.0.1:40001".parse().unwrap(),
            therapy: "127.0.0.1:40002".parse().unwrap(),
            receipt_key: post::ReceiptKey::generate().unwrap().public(),
        }
    }

    #[test]
    fn a_demo_has_its_agencies_addresses_and_touches_nothing_outside_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("demo");
        let place = Place::make(Some(&dir), &far()).unwrap();
        let directory = place.directory().unwrap();
        let setting = |endpoint: &str, key: &str| {
            let endpoint = directory.endpoints.get(&endpoint.parse().unwrap()).unwrap();
            endpoint.settings.get(key).unwrap().clone()
        };
        assert_eq!(setting("r1l-mllp", "port").as_integer(), Some(40_001));
        assert_eq!(
            setting("therapy-webhook", "url").as_str(),
            Some("https://127.0.0.1:40002/waymark")
        );
        assert!(setting("specialist-mailbox", "receipt_keys").is_array());
        let config = &place.config;
        assert!(
            config
                .database
                .url
                .expose()
                .starts_with(&format!("sqlite://{}", dir.display()))
        );
        for path in [
            &config.keys.keyring,
            &config.keys.log,
            &config.tls.cert,
            &config.outbound.roots,
            &config.secrets.dir,
        ] {
            assert!(
                path.starts_with(&dir) && path.exists(),
                "{}",
                path.display()
            );
        }
        place.therapy_trust().unwrap();
        assert!(place.spare().exists());
    }

    #[test]
    fn a_temporary_demo_is_gone_afterwards() {
        let place = Place::make(None, &far()).unwrap();
        let dir = place.dir().to_owned();
        assert!(dir.exists());
        drop(place);
        assert!(!dir.exists());
    }
}
