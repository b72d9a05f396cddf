//! The demo's deployment: made by `waymark init`, then told where its agencies really are.
//!
//! Every path in its configuration is absolute and nothing is taken from the environment, so that a demo never
//! touches another deployment's database.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::ClientConfig;
use tempfile::TempDir;
use toml::{Table, Value};
use tonic::transport::Channel;
use waymark_adapters::stand_in::mesh;
use waymark_adapters::stand_in::notify::{Callbacks, Notify};
use waymark_adapters::webhook::sign::WebhookSecret;
use waymark_core::directory::Directory;
use waymark_core::time::Clock as _;

use super::papers::{Callers, Papers};
use super::therapy::{self, Trust};
use super::{families, post, samples};
use crate::app::{App, read_folder};
use crate::cli::client::{ClientArgs, ClientDuty, PROFILE_FILE};
use crate::cli::init::{Deployment, InitOptions, Ports, init_deployment};
use crate::cli::pki::Authority;
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
/// What the provider of family messages bears when it reports.
const REPORTS_SECRET: &str = "notify-receipts";
/// What the MESH mailbox proves itself by.
pub(super) const MESH_PASSWORD: &str = "mesh-password";
pub(super) const MESH_KEY: &str = "mesh-key";
/// The portage team's folder, below the gateway's folder for files.
const PORTAGE_FOLDER: &str = "portage";
/// Endpoints of the sample directory that are pointed at the demo's agencies.
const ENDPOINTS: usize = 8;
/// Where samples for the reader stand in the deployment.
const SAMPLES_FOLDER: &str = "referrals";
/// Paths within the configuration, by section and key.
const PATHS: [(&str, &str); 10] = [
    ("keys", "keyring"),
    ("keys", "log"),
    ("tls", "cert"),
    ("tls", "key"),
    ("tls", "client_ca"),
    ("outbound", "cert"),
    ("outbound", "key"),
    ("outbound", "roots"),
    ("secrets", "dir"),
    ("files", "root"),
];

/// Where the demo's agencies are, and what the directory must know of them besides.
pub(super) struct FarSides {
    /// The hospital's MLLP listener.
    pub(super) hospital: SocketAddr,
    /// The therapy service's HTTPS listener.
    pub(super) therapy: SocketAddr,
    /// The mental health service's gRPC listener.
    pub(super) push: SocketAddr,
    /// The occupational therapy service's BaRS receiver.
    pub(super) bars: SocketAddr,
    /// The MESH hub.
    pub(super) hub: SocketAddr,
    /// The provider that writes to families.
    pub(super) families: SocketAddr,
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
        write_spares(&made.dir)?;
        write_keys(&made.dir)?;
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

    /// A sample that is left for the reader to send.
    pub(super) fn spare(&self, name: &str) -> PathBuf {
        self.made.dir.join(SAMPLES_FOLDER).join(name)
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

    /// A certificate of an agency of this machine.
    ///
    /// # Errors
    /// When the development authority cannot sign.
    pub(super) fn papers(&self, name: &str, identity: &str) -> anyhow::Result<Papers> {
        Papers::issue(&Authority::load(&self.made.dir)?, name, identity)
    }

    /// How one of the directory's identities speaks TLS with others.
    ///
    /// # Errors
    /// When its certificate cannot be read.
    pub(super) fn client(&self, name: &str) -> anyhow::Result<Arc<ClientConfig>> {
        self.as_client(name, None)
            .resolve(ClientDuty::Agency)?
            .rustls()
    }

    /// What the therapy service trusts and is trusted by.
    ///
    /// # Errors
    /// When the development authority cannot sign, or a secret is missing.
    pub(super) fn therapy_trust(&self) -> anyhow::Result<Trust> {
        let papers = self.papers("Southmere Children's Therapies", THERAPY_IDENTITY)?;
        let webhook = |name: &str| {
            let text = self.secret(name)?;
            WebhookSecret::parse(&text).with_context(|| format!("read the secret {name}"))
        };
        Ok(Trust {
            server: papers.server(Callers::Anybody)?,
            client: self.client(therapy::AGENCY)?,
            signing: webhook(SIGNING_SECRET)?,
            callback: webhook(CALLBACK_SECRET)?,
        })
    }

    /// Where the provider of family messages reports to.
    ///
    /// # Errors
    /// When its token is missing.
    pub(super) fn reports(
        &self,
        callback: SocketAddr,
        papers: &Papers,
    ) -> anyhow::Result<Callbacks> {
        let token = self.secret(REPORTS_SECRET)?;
        let token = std::str::from_utf8(token.trim_ascii()).context("a token is text")?;
        Ok(Callbacks {
            url: format!("https://{callback}/callbacks/{}", families::ENDPOINT),
            token: token.to_owned(),
            ca: papers.ca_pem.clone().into_bytes(),
        })
    }

    /// The folder of the portage team.
    ///
    /// # Errors
    /// When the deployment has no folder for files.
    pub(super) fn portage_folder(&self) -> anyhow::Result<PathBuf> {
        let root = self.config.files.root.as_ref();
        Ok(root.context("no files.root")?.join(PORTAGE_FOLDER))
    }

    /// Where a secret's file is.
    pub(super) fn secret_path(&self, name: &str) -> PathBuf {
        self.made.dir.join("secrets").join(name)
    }

    fn secret(&self, name: &str) -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
        let path = self.secret_path(name);
        let read = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(zeroize::Zeroizing::new(read))
    }

    fn as_client(&self, name: &str, gateway: Option<SocketAddr>) -> ClientArgs {
        ClientArgs {
            config: self.made.config.clone(),
            identity: Some(name.to_owned()),
            target: gateway.map(|gateway| gateway.to_string()),
            ca: None,
            cert: None,
            key: None,
        }
    }

    /// Connects to the gateway as one of the directory's identities.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn connect(&self, name: &str, gateway: SocketAddr) -> anyhow::Result<Channel> {
        self.as_client(name, Some(gateway))
            .connect(ClientDuty::Agency)
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
        if let (Some(fhir), Some(address)) = (listen.get_mut("fhir"), app.fhir)
            && let Some(fhir) = fhir.as_table_mut()
        {
            fhir.insert("address".to_owned(), Value::String(address.to_string()));
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
    let url = |address: SocketAddr| ("url", Value::String(format!("https://{address}")));
    let each_second = |key: &'static str| (key, Value::Integer(1));
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
            "cam01-grpc" => vec![url(far.push)],
            "ot001-fhir" => vec![url(far.bars)],
            "aud01-mesh" => vec![url(far.hub), each_second("poll_seconds")],
            "portage-files" => vec![each_second("every_s")],
            families::ENDPOINT => vec![url(far.families)],
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
    if found != ENDPOINTS {
        bail!("the sample directory has {found} of the {ENDPOINTS} endpoints that the demo plays");
    }
    write_table(
        path,
        &services,
        "# The sample's services, with the demo's agencies at their real addresses.",
    )
}

fn write_spares(dir: &Path) -> anyhow::Result<()> {
    let folder = dir.join(SAMPLES_FOLDER);
    std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    let message = samples::spare_message(SystemClock.now().london_date())?;
    for (name, bytes) in [
        (samples::SPARE, samples::SPARE_JSON.as_bytes()),
        (samples::SPARE_MESSAGE, &message),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Puts the keys that the hub and the provider gave out where `init` drew some of its own.
fn write_keys(dir: &Path) -> anyhow::Result<()> {
    let key = Notify::key();
    for (name, secret) in [
        ("notify-key", &*key),
        (MESH_PASSWORD, mesh::PASSWORD),
        (MESH_KEY, mesh::SHARED_KEY),
    ] {
        let path = dir.join("secrets").join(name);
        std::fs::write(&path, secret).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
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
            push: "127.0.0.1:40003".parse().unwrap(),
            bars: "127.0.0.1:40004".parse().unwrap(),
            hub: "127.0.0.1:40005".parse().unwrap(),
            families: "127.0.0.1:40006".parse().unwrap(),
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
        assert_eq!(
            setting("aud01-mesh", "url").as_str(),
            Some("https://127.0.0.1:40005")
        );
        assert!(
            place.spare(samples::SPARE).exists() && place.spare(samples::SPARE_MESSAGE).exists()
        );
        let folder = place.portage_folder().unwrap();
        assert!(folder.starts_with(&dir) && folder.is_dir());
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
