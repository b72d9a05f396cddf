//! `waymark.toml`: how this process runs. Unknown keys are refused with their place, secrets come from files or the
//! environment, and everything is checked before anything opens.
//!
//! Only this module reads the environment. A variable `WAYMARK_<SECTION>_<KEY>` overrides a key; a secret named by
//! the directory is `WAYMARK_SECRET_<NAME>` or a file of its name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use waymark_core::directory::Environment;
use waymark_core::error::Violation;
use waymark_core::id::Pathway;
use waymark_core::referral::{ConsentScope, LawfulBasis};

use crate::tls::TlsFiles;

mod check;
mod defaults;
mod log_key;
mod overlay;
mod secret;
mod value;

pub use check::limits;
pub use log_key::{LOG_KEY_BYTES_MAX, LogKeyError, load_log_key, log_key_text};
pub use secret::{SECRET_BYTES_MAX, Secret, SecretError, Secrets};
pub use value::{DatabaseUrl, Lasting};

/// The documented default configuration, every key with its default.
pub const DEFAULT_TOML: &str = include_str!("config/config.default.toml");
/// Bytes of the largest configuration file.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// How this process runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What this deployment is.
    pub gateway: Gateway,
    /// Where everything is kept.
    #[serde(default)]
    pub database: Database,
    /// Key material.
    #[serde(default)]
    pub keys: Keys,
    /// Where it listens.
    #[serde(default)]
    pub listen: Listen,
    /// TLS of its listeners.
    #[serde(default)]
    pub tls: Tls,
    /// TLS of its own calls.
    #[serde(default)]
    pub outbound: Outbound,
    /// What callers may ask for.
    #[serde(default)]
    pub limits: Limits,
    /// The delivery engine.
    #[serde(default)]
    pub delivery: Delivery,
    /// The delivery log.
    #[serde(default)]
    pub log: Log,
    /// The directory.
    #[serde(default)]
    pub directory: DirectorySettings,
    /// Secrets that the directory names.
    #[serde(default)]
    pub secrets: SecretSettings,
    /// Folders that agencies exchange files by.
    #[serde(default)]
    pub files: FileSettings,
    /// Traces, metrics and log lines.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// What this deployment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Test data alone, or real children; traffic of the other kind is refused.
    pub environment: Environment,
    /// How long open work may take to finish when the process is asked to stop.
    #[serde(default = "defaults::drain")]
    pub drain: Lasting,
}

/// Where everything is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `sqlite:///path/to/file.db` or `postgres://…`, without a password.
    pub url: DatabaseUrl,
    /// A file that holds the URL instead, where it has a password.
    pub url_file: Option<PathBuf>,
    /// Whether to bring an older schema up to date at start.
    pub migrate: bool,
    /// SQLite: MiB of free disk below which nothing new is accepted, while what was accepted goes on.
    pub free_disk_min_mib: u64,
}

/// Key material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// The keyring that everything at rest is sealed under.
    pub keyring: PathBuf,
    /// The key that signs the log's checkpoints.
    pub log: PathBuf,
}

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// gRPC over mutual TLS.
    pub grpc: SocketAddr,
    /// Prometheus metrics and health over plain HTTP; for the private network alone.
    pub metrics: Option<SocketAddr>,
    /// Signed status callbacks over TLS.
    pub webhook: Option<SocketAddr>,
    /// MLLP listeners.
    pub mllp: Vec<MllpListener>,
    /// FHIR over mutual TLS.
    pub fhir: Option<FhirListener>,
}

/// The FHIR listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FhirListener {
    /// Where.
    pub address: SocketAddr,
    /// Target identifiers of ours, as `system|value`: messages for others are refused.
    pub targets: Vec<String>,
    /// What is assumed of messages that cannot say it.
    pub assume: MllpAssumptions,
}

/// One MLLP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MllpListener {
    /// Its name: what arrives without TLS speaks for the directory's identity `mllp:<name>`.
    pub name: String,
    /// Where.
    pub address: SocketAddr,
    /// Whether it asks for a client certificate; without, it must stand on a private interface.
    #[serde(default = "defaults::yes")]
    pub tls: bool,
    /// What is assumed of messages that cannot say it.
    pub assume: MllpAssumptions,
}

/// What HL7 v2 or FHIR cannot say and the agreement with the sender says once for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MllpAssumptions {
    /// The pathway of a referral whose reason names none.
    pub pathway: Pathway,
    /// Pathways by the reason code of RF1-10, or of a ServiceRequest.
    #[serde(default)]
    pub pathways: BTreeMap<String, Pathway>,
    /// The lawful basis of sharing.
    #[serde(default = "defaults::lawful_basis")]
    pub lawful_basis: LawfulBasis,
    /// What the consent covers that the sender holds by agreement.
    #[serde(default = "defaults::consent_scope")]
    pub consent_scope: Vec<ConsentScope>,
}

/// TLS of its listeners; all PEM, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The server's certificate, then its intermediates.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that sign client certificates.
    pub client_ca: PathBuf,
    /// Their revocation lists.
    pub crl: Option<PathBuf>,
}

impl From<&Tls> for TlsFiles {
    fn from(tls: &Tls) -> Self {
        Self {
            cert: tls.cert.clone(),
            key: tls.key.clone(),
            client_ca: tls.client_ca.clone(),
            crl: tls.crl.clone(),
        }
    }
}

/// TLS of its own calls; all PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// The certificate that it shows.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that sign the certificates of agencies' servers.
    pub roots: PathBuf,
}

/// What callers may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest that one call may take before its answer begins; a caller's own shorter deadline is honoured.
    pub request_timeout: Lasting,
    /// Calls at work at the same time, all callers together; the next is refused at once.
    pub in_flight: u32,
    /// Long-lived streams open at the same time, all callers together.
    pub streams: u32,
    /// Calls, and items of a stream, of one agency in one second, over time.
    pub agency_per_second: u32,
    /// Calls of one agency that may come at once.
    pub agency_burst: u32,
    /// Items of one `SubmitReferrals` stream at work at the same time.
    pub stream_in_flight: u32,
}

/// The delivery engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// Attempts at the same time, of fresh and of retried work each.
    pub capacity: u32,
    /// How long a lease lasts: an instance that dies holds its work no longer.
    pub lease: Lasting,
    /// How often due work is looked for when nothing wakes the engine.
    pub poll: Lasting,
}

/// The delivery log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How often the sequencer runs when nothing wakes it.
    pub interval: Lasting,
    /// Entries that one round takes at most.
    pub round: u32,
}

/// The directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectorySettings {
    /// How often a new release is looked for.
    pub refresh: Lasting,
    /// A folder that becomes release 1 when the database holds none.
    pub initial: Option<PathBuf>,
}

/// Secrets that the directory names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretSettings {
    /// A folder with a file for each, by name.
    pub dir: PathBuf,
}

/// Folders that agencies exchange files by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileSettings {
    /// The folder below which every `file` endpoint's own folder on this machine lies; none unless given.
    pub root: Option<PathBuf>,
}

/// Traces, metrics and log lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where traces and metrics are sent by OTLP over gRPC; nowhere unless given.
    pub otlp_endpoint: Option<String>,
    /// The share of traces that begin here and are kept, 0 to 1; a caller's own choice is followed.
    pub sample_ratio: f64,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Which log lines are written, e.g. `info,waymark=debug`.
    pub log_filter: String,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One line of words.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`CONFIG_BYTES_MAX`].
    #[error("{path} is larger than {CONFIG_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file does not say what a configuration says.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A variable of the environment does not say what a configuration says.
    #[error("environment variable {variable}: {message}")]
    Variable {
        /// The variable.
        variable: String,
        /// What is wrong, without the value.
        message: String,
    },
    /// Values that do not go together, or are out of range.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Violation>),
    /// A file that holds a secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Config {
    /// Reads a file, lays the environment over it, resolves paths beside the file, and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`] names the place, the variable or the keys at fault.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let mut config = Self::assemble(&text, &path.display().to_string(), &overlay::variables())?;
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        config.resolve(folder);
        Ok(config)
    }

    /// Parses a configuration, lays variables over it and checks it; touches nothing outside its arguments.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn assemble(
        text: &str,
        file: &str,
        variables: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let written: Self = toml::from_str(text).map_err(|error| syntax(text, file, &error))?;
        if written.database.url.has_password() {
            return Err(ConfigError::Invalid(vec![Violation::new(
                "database.url",
                "holds a password: put the URL into a file and name it in database.url_file, or set WAYMARK_DATABASE_URL",
            )]));
        }
        let config = overlay::apply(text, written, variables)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks everything that can be checked without opening anything.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every key at fault.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let violations = self.violations();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid(violations))
        }
    }

    /// The database's URL, read from its file where one is named.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn database_url(&self) -> Result<DatabaseUrl, ConfigError> {
        match &self.database.url_file {
            None => Ok(self.database.url.clone()),
            Some(path) => Ok(DatabaseUrl::new(secret::read(path)?.expose())),
        }
    }

    /// Where secrets are found.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(
            self.secrets.dir.clone(),
            overlay::secret_variables(overlay::variables()),
        )
    }

    fn resolve(&mut self, folder: &Path) {
        let fixed = [
            &mut self.keys.keyring,
            &mut self.keys.log,
            &mut self.tls.cert,
            &mut self.tls.key,
            &mut self.tls.client_ca,
            &mut self.outbound.cert,
            &mut self.outbound.key,
            &mut self.outbound.roots,
            &mut self.secrets.dir,
        ];
        let given = [
            &mut self.tls.crl,
            &mut self.database.url_file,
            &mut self.directory.initial,
            &mut self.files.root,
        ];
        for path in fixed.into_iter().chain(given.into_iter().flatten()) {
            *path = folder.join(&*path);
        }
        self.database.url.resolve(folder);
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

fn syntax(text: &str, file: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let before: String = text
        .char_indices()
        .take_while(|(byte, _)| *byte < at)
        .map(|(_, c)| c)
        .collect();
    let line = 1 + before.chars().filter(|c| *c == '\n').count();
    let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
    let message = error
        .message()
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(", ");
    ConfigError::Syntax {
        file: file.to_owned(),
        line,
        column,
        message,
    }
}

#[cfg(test)]
mod tests;
