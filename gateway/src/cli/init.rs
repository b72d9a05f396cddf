//! `waymark init`: everything that a deployment begins with, in one folder that did not exist before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde::Serialize;
use waymark_core::access::Role;
use waymark_core::directory::{Directory, Environment, Identity, Sector, SourceFile, secret_names};
use waymark_store::Keyring;
use waymark_tlog::note::SigningKey;
use zeroize::Zeroizing;

use super::client::{Defaults, PROFILE_FILE, Profile};
use super::{failure::Failure, output};
use crate::app::read_folder;
use crate::clock::{Random, SystemRandomness};
use crate::config::{Config, DatabaseUrl, log_key_text};

mod certificates;
mod files;
mod settings;

use certificates::write_certificates;
use files::private_folder;
pub(super) use files::{write_private, write_public};

/// The authority's certificate within a deployment.
pub(super) const CA_CERT: &str = "ca.pem";
/// The authority's private key within a deployment.
pub(super) const CA_KEY: &str = "ca.key";
/// The log's public key within a deployment.
pub(super) const LOG_VKEY: &str = "log.vkey";
/// The configuration within a deployment.
pub(super) const CONFIG_FILE: &str = "waymark.toml";

/// Bytes of a secret that init draws.
const SECRET_BYTES: usize = 32;
/// What certificate names of the sample directory begin with, and what they begin with in a live deployment.
const TEST_SCHEME: &str = "waymark:test:";
const LIVE_SCHEME: &str = "waymark:live:";

/// The sample directory, as the project ships it.
const SAMPLE: [(&str, &str); 5] = [
    (
        "agencies.toml",
        include_str!("../../../deploy/directory/agencies.toml"),
    ),
    (
        "area.toml",
        include_str!("../../../deploy/directory/area.toml"),
    ),
    (
        "rules.toml",
        include_str!("../../../deploy/directory/rules.toml"),
    ),
    (
        "services.toml",
        include_str!("../../../deploy/directory/services.toml"),
    ),
    (
        "tests.toml",
        include_str!("../../../deploy/directory/tests.toml"),
    ),
];

/// Where a deployment listens, all on 127.0.0.1; 0 takes a free port at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// gRPC.
    pub grpc: u16,
    /// Metrics and health.
    pub metrics: Option<u16>,
    /// Signed callbacks.
    pub webhook: Option<u16>,
    /// FHIR, where the directory has a FHIR endpoint that says who we are there.
    pub fhir: u16,
    /// The first MLLP listener; each further one takes the next port.
    pub mllp: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            grpc: 8443,
            metrics: Some(9464),
            webhook: Some(8444),
            fhir: 8445,
            mllp: 2576,
        }
    }
}

impl Ports {
    /// Free ports for everything.
    pub const FREE: Self = Self {
        grpc: 0,
        metrics: Some(0),
        webhook: Some(0),
        fhir: 0,
        mllp: 0,
    };
}

/// What to make.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Test or live.
    pub environment: Environment,
    /// Where it listens.
    pub ports: Ports,
    /// The database's URL; a file beside the configuration where none is given.
    pub database: Option<String>,
    /// The directory's files; the sample where there are none.
    pub directory: Vec<SourceFile>,
    /// Further names of the server's certificate.
    pub names: Vec<String>,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            environment: Environment::Test,
            ports: Ports::default(),
            database: None,
            directory: Vec::new(),
            names: Vec::new(),
        }
    }
}

/// A deployment that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deployment {
    /// Its folder.
    pub dir: PathBuf,
    /// Its waymark.toml.
    pub config: PathBuf,
    /// Its authority's certificate.
    pub ca: PathBuf,
    /// The folder of each client's cert.pem and key.pem, by the name that `--as` takes.
    pub clients: BTreeMap<String, PathBuf>,
    /// Whoever is most likely to send first, by the name that `--as` takes: an agency of education that does not triage.
    pub sender: Option<String>,
    /// The log's public key.
    pub log_vkey: String,
}

/// Makes a deployment in a folder that is empty or does not exist; all of it appears at once, or nothing.
///
/// # Errors
/// When the folder holds anything, the directory does not load, or a file cannot be written.
pub fn init_deployment(dir: &Path, options: &InitOptions) -> anyhow::Result<Deployment> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::usage(format!(
            "{} is not empty: init never overwrites",
            dir.display()
        )));
    }
    let dir = std::path::absolute(dir).with_context(|| format!("find {}", dir.display()))?;
    let parent = dir
        .parent()
        .context("the root folder cannot be a deployment")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let building =
        building_folder(parent).with_context(|| format!("write to {}", parent.display()))?;
    let (clients, sender, log_vkey) = build(building.path(), options)?;
    // Renaming onto an empty folder replaces it; onto one that was filled meanwhile it fails.
    fs::rename(building.path(), &dir).with_context(|| format!("make {}", dir.display()))?;
    // The folder now has its own name: there is nothing left to remove under the old one.
    let _moved: PathBuf = building.keep();
    Ok(Deployment {
        config: dir.join(CONFIG_FILE),
        ca: dir.join(CA_CERT),
        clients: clients
            .into_iter()
            .map(|name| (name.clone(), dir.join("clients").join(name)))
            .collect(),
        sender,
        log_vkey,
        dir,
    })
}

/// A folder that its owner alone can enter, removed again unless it gets its own name.
fn building_folder(parent: &Path) -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".waymark-init-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir_in(parent)
}

/// Answers the names of its clients, who of them is most likely to send, and the log's public key.
fn build(
    dir: &Path,
    options: &InitOptions,
) -> anyhow::Result<(Vec<String>, Option<String>, String)> {
    let files = directory_files(options);
    let directory = Directory::load(&files).map_err(|findings| {
        let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Failure::usage(format!("the directory does not load:\n{}", all.join("\n")))
    })?;
    if directory.area.environment != options.environment {
        bail!(
            "the directory's environment is {}, and the deployment's is {}",
            directory.area.environment.as_str(),
            options.environment.as_str()
        );
    }
    let log_vkey = write_keys(dir, &directory)?;
    let clients = write_certificates(dir, &directory, &options.names)?;
    private_folder(&dir.join("secrets"))?;
    for name in secret_names(&directory).keys() {
        let secret = Zeroizing::new(format!(
            "whsec_{}\n",
            STANDARD.encode(&*random(SECRET_BYTES))
        ));
        write_private(&dir.join("secrets").join(name), secret.as_bytes())?;
    }
    let folder = dir.join("directory");
    fs::create_dir(&folder)?;
    for file in &files {
        let path = folder.join(&file.path);
        let inner = path.parent().unwrap_or(&folder);
        fs::create_dir_all(inner).with_context(|| format!("make {}", inner.display()))?;
        write_public(&path, file.text.as_bytes())?;
    }
    for folder in settings::folders(&directory) {
        let folder = dir.join(settings::FILES_FOLDER).join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    write_settings(dir, &directory, options)?;
    let names = clients.iter().map(|(name, _)| name.clone()).collect();
    let sender = likely_sender(&directory, &clients);
    write_profile(dir, options, &clients, sender.as_ref(), &log_vkey)?;
    Ok((names, sender, log_vkey))
}

/// The directory's files: those given, else the sample in the deployment's own environment.
fn directory_files(options: &InitOptions) -> Vec<SourceFile> {
    if !options.directory.is_empty() {
        return options.directory.clone();
    }
    let text = |text: &str| match options.environment {
        Environment::Test => text.to_owned(),
        Environment::Live => text
            .replace(TEST_SCHEME, LIVE_SCHEME)
            .replace("environment = \"test\"", "environment = \"live\""),
    };
    SAMPLE
        .iter()
        .map(|(path, sample)| SourceFile {
            path: (*path).to_owned(),
            text: text(sample),
        })
        .collect()
}

/// The sample directory of a test deployment.
pub(super) fn sample_directory() -> Vec<SourceFile> {
    directory_files(&InitOptions::default())
}

fn write_keys(dir: &Path, directory: &Directory) -> anyhow::Result<String> {
    let keys = dir.join("keys");
    private_folder(&keys)?;
    Keyring::generate()
        .and_then(|keyring| keyring.save_new(&keys.join("keyring")))
        .context("make the keyring")?;
    let origin = format!(
        "waymark/{}/{}",
        directory.area.environment.as_str(),
        directory.area.id
    );
    let seed: Zeroizing<[u8; 32]> = {
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandomness::new().fill(&mut *seed);
        seed
    };
    let text = log_key_text(&origin, &seed).context("make the log's key")?;
    write_private(&keys.join("log.key"), text.as_bytes())?;
    let vkey = SigningKey::from_seed(&origin, *seed)
        .context("make the log's key")?
        .vkey();
    write_public(&dir.join(LOG_VKEY), format!("{vkey}\n").as_bytes())?;
    Ok(vkey)
}

fn write_settings(dir: &Path, directory: &Directory, options: &InitOptions) -> anyhow::Result<()> {
    let secret_url = options
        .database
        .as_ref()
        .filter(|url| DatabaseUrl::new(url.as_str()).has_password());
    if let Some(url) = secret_url {
        write_private(
            &dir.join("secrets").join(settings::DATABASE_URL_SECRET),
            format!("{url}\n").as_bytes(),
        )?;
    }
    let text = settings::waymark_toml(directory, options)?;
    Config::assemble(&text, CONFIG_FILE, &[])
        .context("the configuration just made is not valid")?;
    write_public(&dir.join(CONFIG_FILE), text.as_bytes())
}

/// Whoever is most likely to try `send` first: an agency of education that is not the triage's.
fn likely_sender(directory: &Directory, clients: &[(String, Identity)]) -> Option<String> {
    let triage = directory.triage().map(|s| &s.agency);
    let teaches = |identity: &Identity| {
        let agency = directory.agencies.get(&identity.agency);
        agency.is_some_and(|agency| agency.sector == Sector::Education)
    };
    let of_agencies = || {
        let all = clients.iter();
        all.filter(|(_, i)| i.roles.contains(&Role::Agency))
    };
    let first = of_agencies().find(|(_, i)| Some(&i.agency) != triage && teaches(i));
    first
        .or_else(|| of_agencies().next())
        .map(|(name, _)| name.clone())
}

fn write_profile(
    dir: &Path,
    options: &InitOptions,
    clients: &[(String, Identity)],
    sender: Option<&String>,
    log_vkey: &str,
) -> anyhow::Result<()> {
    let with = |role: Role| {
        clients
            .iter()
            .find(|(_, i)| i.roles.contains(&role))
            .map(|(name, _)| name.clone())
    };
    let profile = Profile {
        target: Some(format!("127.0.0.1:{}", options.ports.grpc))
            .filter(|_| options.ports.grpc != 0),
        ca: Some(CA_CERT.into()),
        clients: Some("clients".into()),
        log_vkey: Some(log_vkey.to_owned()),
        default: Defaults {
            agency: sender.cloned(),
            admin: with(Role::Admin),
            auditor: with(Role::Auditor),
        },
    };
    let body = toml::to_string(&profile).context("write the client profile")?;
    let text = format!(
        "# How the commands of this machine reach the gateway. Paths are relative to this file.\n\
         # [default] names the folder below `clients` that is used where --as is not given.\n\n{body}"
    );
    write_public(&dir.join(PROFILE_FILE), text.as_bytes())
}

fn random(bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut drawn = Zeroizing::new(vec![0; bytes]);
    SystemRandomness::new().fill(&mut drawn);
    drawn
}

/// Test or live, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Test data alone.
    Test,
    /// Real children.
    Live,
}

/// Makes a deployment: keys, certificates, configuration and a directory.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark init mydir
  waymark init mydir --database postgres://localhost/waymark
  waymark init mydir --directory area/ --grpc-port 9443 --name gateway.example.nhs.uk

The folder must be empty or not exist. It gets:
  waymark.toml      how the process runs        directory/   who is in the area (a sample)
  client.toml       how commands reach it       clients/     a certificate for each identity
  ca.pem, ca.key    a development authority     tls/         the gateway's own certificates
  keys/             keyring and log key         secrets/     what endpoints sign and prove themselves with
                                                files/       a folder for each agency that exchanges files
A provider's own key (GOV.UK Notify, MESH) must replace what stands in secrets/ under its name.
Keep keys/ backed up apart from the database: without the keyring nothing in it can be read.")]
pub(super) struct Options {
    /// The folder to make.
    dir: PathBuf,
    /// Test data alone, or real children; the two never mix.
    #[arg(long, value_enum, default_value = "test")]
    environment: Kind,
    /// Where everything is kept: a PostgreSQL URL. Without it, a SQLite file in the folder.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// A directory folder to take in place of the sample.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// A further DNS name or address of the server's certificate; may be given several times.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Port of gRPC.
    #[arg(long, default_value_t = Ports::default().grpc)]
    grpc_port: u16,
    /// Port of the first MLLP listener; each further one takes the next.
    #[arg(long, default_value_t = Ports::default().mllp)]
    mllp_port: u16,
    /// Port of signed callbacks.
    #[arg(long, default_value_t = 8444)]
    webhook_port: u16,
    /// Port of FHIR, where the directory has a FHIR endpoint that says who we are there.
    #[arg(long, default_value_t = Ports::default().fhir)]
    fhir_port: u16,
    /// Port of metrics and health.
    #[arg(long, default_value_t = 9464)]
    metrics_port: u16,
}

impl Options {
    /// Makes it, and says what to do next.
    ///
    /// # Errors
    /// As [`init_deployment`].
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let options = InitOptions {
            environment: match self.environment {
                Kind::Test => Environment::Test,
                Kind::Live => Environment::Live,
            },
            ports: Ports {
                grpc: self.grpc_port,
                metrics: Some(self.metrics_port),
                webhook: Some(self.webhook_port),
                fhir: self.fhir_port,
                mllp: self.mllp_port,
            },
            database: self.database,
            directory: self
                .directory
                .as_deref()
                .map(read_folder)
                .transpose()?
                .unwrap_or_default(),
            names: self.name,
        };
        let made = init_deployment(&self.dir, &options)?;
        output::show(&made, |made| {
            let config = self.dir.join(CONFIG_FILE);
            format!(
                "made {}\n  clients  {}\n  log key  {}\n\nnext:\n  waymark serve --config {config}\n  \
                 waymark send --config {config} --as {} FILE\n  waymark doctor --config {config}",
                made.dir.display(),
                made.clients.keys().cloned().collect::<Vec<_>>().join(", "),
                made.log_vkey,
                made.sender.as_deref().unwrap_or("NAME"),
                config = config.display(),
            )
        })?;
        if options.environment == Environment::Live {
            output::note(
                "the authority and certificates are for development: replace them before real data comes",
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests;
