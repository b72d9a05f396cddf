//! The settings of one file endpoint, checked without I/O.

use std::time::Duration;

use serde::Deserialize;
use waymark_core::directory::Endpoint;
use waymark_core::error::Violation;

use super::name::Name;
use super::package::Format;
use crate::context::EgressPolicy;
use crate::hl7v2::config::Assumptions;
use crate::settings::{self, Address, SecretName};

/// The most folders of a path.
const PATH_PARTS_MAX: usize = 8;
/// How often a folder is looked through, unless its settings say.
const EVERY_S: u32 = 30;
/// How long a message may stay incomplete, unless its settings say.
const INCOMPLETE_S: u32 = 60 * 60;
/// Messages that may wait in the outbox, unless its settings say.
const WAITING_MAX: u32 = 1_000;
/// Days that what was taken or set aside is kept, unless its settings say.
const KEEP_DAYS: u32 = 7;
/// The most of them.
const KEEP_DAYS_MAX: u32 = 90;
/// Seconds of a day.
const DAY_S: u32 = 24 * 60 * 60;
/// The longest of the times above.
const SECONDS_MAX: u32 = 7 * 24 * 60 * 60;
/// The most messages that an outbox may be told to hold.
const WAITING_LIMIT: u32 = 10_000;
/// The port of SSH.
const PORT: u16 = 22;
/// What a fingerprint begins with.
const FINGERPRINT_PREFIX: &str = "SHA256:";

/// Where the files lie.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    /// A folder of this machine below the root that the process was given.
    Folder {
        /// The path below the root.
        directory: String,
    },
    /// A folder on an SFTP server.
    Sftp(Box<Sftp>),
}

/// An SFTP server.
#[derive(Clone, Debug)]
pub(super) struct Sftp {
    /// Where it is.
    pub(super) address: Address,
    /// Our name there.
    pub(super) user: String,
    /// Our private key, OpenSSH form.
    pub(super) key: SecretName,
    /// SHA-256 fingerprints of its host keys, as `ssh-keygen -l` prints them: one, or two while they change.
    pub(super) host_keys: Vec<String>,
    /// The folder there.
    pub(super) directory: String,
}

/// The settings of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) transport: Transport,
    /// How messages to the agency are written.
    pub(super) payload: Format,
    /// How often its folders are looked through.
    pub(super) every: Duration,
    /// How long a message of the agency may stay incomplete before it is set aside.
    pub(super) incomplete_after: Duration,
    /// How long a CSV file without a manifest must have been left alone to count as whole; `None` takes none such.
    pub(super) bare_csv_after: Option<Duration>,
    /// Messages that may wait in the outbox.
    pub(super) waiting_max: usize,
    /// How long what was taken, and what was set aside, lies there before it is removed.
    pub(super) keep: Duration,
    /// HL7 v2 as this agency speaks it.
    pub(super) hl7v2: Option<toml::Table>,
    /// What is assumed of its HL7 v2 messages.
    pub(super) assume: Option<Assumptions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawTransport {
    Folder,
    Sftp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    transport: RawTransport,
    directory: String,
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    key: Option<SecretName>,
    #[serde(default)]
    host_keys: Vec<String>,
    #[serde(default)]
    private_network: bool,
    #[serde(default)]
    payload: Format,
    #[serde(default = "every")]
    every_s: u32,
    #[serde(default = "incomplete")]
    incomplete_after_s: u32,
    bare_csv_after_s: Option<u32>,
    #[serde(default = "waiting")]
    waiting_max: u32,
    #[serde(default = "keep_days")]
    keep_days: u32,
    hl7v2: Option<toml::Table>,
    assume: Option<Assumptions>,
}

const fn every() -> u32 {
    EVERY_S
}

const fn incomplete() -> u32 {
    INCOMPLETE_S
}

const fn waiting() -> u32 {
    WAITING_MAX
}

const fn keep_days() -> u32 {
    KEEP_DAYS
}

struct Faults(Vec<Violation>);

impl Faults {
    fn need(&mut self, holds: bool, key: &str, why: &str) {
        if !holds {
            self.0.push(Violation::new(format!("settings.{key}"), why));
        }
    }
}

impl Settings {
    /// Reads the settings of an endpoint.
    pub(super) fn read(endpoint: &Endpoint, policy: EgressPolicy) -> Result<Self, Vec<Violation>> {
        let raw: Raw = settings::read(endpoint)?;
        let mut faults = Faults(Vec::new());
        let relative = raw.directory.split('/').count() <= PATH_PARTS_MAX
            && raw
                .directory
                .split('/')
                .all(|part| Name::parse(part).is_ok());
        faults.need(
            relative,
            "directory",
            "is a path of plain names such as agencies/spec1, from the root of waymark.toml or from where the SFTP user starts",
        );
        for (key, value) in [
            ("every_s", raw.every_s),
            ("incomplete_after_s", raw.incomplete_after_s),
            ("bare_csv_after_s", raw.bare_csv_after_s.unwrap_or(1)),
        ] {
            faults.need(
                (1..=SECONDS_MAX).contains(&value),
                key,
                "is from 1 to 604800",
            );
        }
        let waiting = (1..=WAITING_LIMIT).contains(&raw.waiting_max);
        faults.need(waiting, "waiting_max", "is from 1 to 10000");
        let kept = (1..=KEEP_DAYS_MAX).contains(&raw.keep_days);
        faults.need(kept, "keep_days", "is from 1 to 90");
        let has_dialect = raw.payload != Format::Hl7v2 || raw.hl7v2.is_some();
        faults.need(
            has_dialect,
            "hl7v2",
            "is required where the payload is hl7v2",
        );
        if let Some(table) = &raw.hl7v2
            && let Err(wrong) = crate::body::dialect(endpoint, table)
        {
            faults.0.extend(crate::body::within("hl7v2", wrong));
        }
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        let (payload, every, incomplete_after) = (
            raw.payload,
            seconds(raw.every_s),
            seconds(raw.incomplete_after_s),
        );
        let (bare_csv_after, waiting_max) = (raw.bare_csv_after_s.map(seconds), raw.waiting_max);
        let keep = seconds(raw.keep_days.saturating_mul(DAY_S));
        let (hl7v2, assume) = (raw.hl7v2.clone(), raw.assume.clone());
        let transport = match raw.transport {
            RawTransport::Folder => Some(folder(raw, &mut faults)),
            RawTransport::Sftp => sftp(raw, policy, &mut faults),
        };
        match transport {
            Some(transport) if faults.0.is_empty() => Ok(Self {
                transport,
                payload,
                every,
                incomplete_after,
                bare_csv_after,
                waiting_max: usize::try_from(waiting_max).unwrap_or(usize::MAX),
                keep,
                hl7v2,
                assume,
            }),
            _ => Err(faults.0),
        }
    }
}

fn folder(raw: Raw, faults: &mut Faults) -> Transport {
    let why = "belongs to transport sftp: leave it out";
    faults.need(raw.host.is_none(), "host", why);
    faults.need(raw.port.is_none(), "port", why);
    faults.need(raw.user.is_none(), "user", why);
    faults.need(raw.key.is_none(), "key", why);
    faults.need(raw.host_keys.is_empty(), "host_keys", why);
    faults.need(!raw.private_network, "private_network", why);
    let directory = raw.directory;
    Transport::Folder { directory }
}

fn sftp(raw: Raw, policy: EgressPolicy, faults: &mut Faults) -> Option<Transport> {
    let one_or_two = (1..=settings::SECRETS_MAX).contains(&raw.host_keys.len());
    let why = "names one SHA256: fingerprint of the server's host key as `ssh-keygen -l` prints it, or two while it changes";
    faults.need(
        one_or_two && raw.host_keys.iter().all(|k| is_fingerprint(k)),
        "host_keys",
        why,
    );
    faults.need(
        raw.key.is_some(),
        "key",
        "is required: `secret:NAME` of an OpenSSH private key",
    );
    let user = raw.user.unwrap_or_default();
    let named = (1..=64).contains(&user.len()) && user.bytes().all(|b| b.is_ascii_graphic());
    faults.need(
        named,
        "user",
        "is required: this gateway's name at the server",
    );
    let host = raw.host.unwrap_or_default();
    let bare = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
    faults.need(bare, "host", "is required: a name or address alone");
    if !bare {
        return None;
    }
    let port = raw.port.unwrap_or(PORT);
    // Judged as any other address is; the scheme stands for nothing but the form.
    let mut wrong = Vec::new();
    let url = format!("https://{host}:{port}/");
    let address = settings::address(&url, false, raw.private_network, policy, &mut wrong);
    for fault in wrong {
        let key = if fault.field == "settings.url" {
            "host"
        } else {
            "private_network"
        };
        faults.need(false, key, &fault.why);
    }
    Some(Transport::Sftp(Box::new(Sftp {
        address: address?,
        user,
        key: raw.key?,
        host_keys: raw.host_keys,
        directory: raw.directory,
    })))
}

/// `SHA256:` and base64 of 32 bytes, unpadded.
fn is_fingerprint(text: &str) -> bool {
    use base64::Engine as _;
    text.strip_prefix(FINGERPRINT_PREFIX)
        .and_then(|rest| {
            base64::engine::general_purpose::STANDARD_NO_PAD
                .decode(rest)
                .ok()
        })
        .is_some_and(|bytes| bytes.len() == 32)
}
