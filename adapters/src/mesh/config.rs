//! The settings of one MESH endpoint, checked without I/O.

use std::time::Duration;

use serde::Deserialize;
use waymark_core::delivery::Evidence;
use waymark_core::directory::Endpoint;
use waymark_core::error::Violation;

use crate::context::EgressPolicy;
use crate::egress::Reach;
use crate::hl7v2::config::Assumptions;
use crate::settings::{self, Address, SecretName};
use crate::{body, fhir};

/// The longest name of a mailbox (`Mex-To`).
const MAILBOX_CHARS_MAX: usize = 100;
/// The longest workflow id (`Mex-WorkflowID`), with the ending of its acknowledgement.
const WORKFLOW_CHARS_MAX: usize = 296;
/// What the workflow of a business acknowledgement ends with (NHS MESH, "Workflow groups and workflow IDs").
pub(super) const ACK_SUFFIX: &str = "_ACK";
/// The most workflows that are taken in from one agency.
const ACCEPTS_MAX: usize = 10;
/// Seconds between two looks into the inbox: MESH asks for no fewer.
const POLL_SECONDS: u32 = 300;
/// The most of them: MESH asks for a look at least once a day.
const POLL_SECONDS_MAX: u32 = 86_400;
/// How long a message that is not for this endpoint may wait for the one it is for.
const LEFT_AFTER_SECONDS: u32 = 3_600;
/// The most of that: five days end all waiting (MESH gives the message back).
const LEFT_AFTER_SECONDS_MAX: u32 = 5 * 86_400;
/// Bytes of one request, unless the settings say otherwise: what NHS England's own client sends.
const CHUNK_BYTES: u32 = 75 * 1024 * 1024;
/// The fewest.
const CHUNK_BYTES_MIN: u32 = 1_024;
/// The most that MESH takes in one request.
const CHUNK_BYTES_MAX: u32 = 100_000_000;

/// The shortest wait after a first failure, at a hub of the internet: half of it passes at least before the hub is
/// asked for a message whose answer was lost, and it must know by then what it took.
const RETRY_FIRST_MS_MIN: u64 = 60_000;

/// How a message's content is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Payload {
    /// The gateway's own JSON, with documents in it.
    #[default]
    Canonical,
    /// One message of HL7 v2.
    Hl7v2,
    /// One message of the Booking and Referral Standard, FHIR JSON.
    Fhir,
}

/// The settings of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The hub.
    pub(super) address: Address,
    pub(super) tls_profile: String,
    /// Our own mailbox, upper case.
    pub(super) mailbox: String,
    pub(super) password: SecretName,
    pub(super) shared_key: SecretName,
    /// The agency's mailbox, upper case.
    pub(super) to: String,
    /// What we send under.
    pub(super) workflow: String,
    /// What we take in.
    pub(super) accepts: Vec<String>,
    /// Whether what comes in is answered under its workflow's `_ACK`.
    pub(super) acknowledges: bool,
    /// The agency's code in the hub's endpoint lookup, where it is to be compared.
    pub(super) ods: Option<String>,
    pub(super) payload: Payload,
    pub(super) hl7v2: Option<toml::Table>,
    pub(super) fhir: Option<toml::Table>,
    pub(super) assume: Option<Assumptions>,
    pub(super) every: Duration,
    pub(super) left_after: Duration,
    pub(super) chunk_bytes: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: String,
    #[serde(default = "settings::default_profile")]
    tls_profile: String,
    #[serde(default)]
    plain: bool,
    #[serde(default)]
    private_network: bool,
    mailbox: String,
    password: SecretName,
    shared_key: SecretName,
    to: String,
    workflow: String,
    accepts: Option<Vec<String>>,
    #[serde(default)]
    acknowledges: bool,
    ods: Option<String>,
    #[serde(default)]
    payload: Payload,
    hl7v2: Option<toml::Table>,
    fhir: Option<toml::Table>,
    assume: Option<Assumptions>,
    #[serde(default = "poll_seconds")]
    poll_seconds: u32,
    #[serde(default = "left_after_seconds")]
    left_after_seconds: u32,
    #[serde(default = "chunk_bytes")]
    chunk_bytes: u32,
}

const fn poll_seconds() -> u32 {
    POLL_SECONDS
}

const fn left_after_seconds() -> u32 {
    LEFT_AFTER_SECONDS
}

const fn chunk_bytes() -> u32 {
    CHUNK_BYTES
}

impl Settings {
    /// Reads the settings of an endpoint.
    pub(super) fn read(endpoint: &Endpoint, policy: EgressPolicy) -> Result<Self, Vec<Violation>> {
        let raw: Raw = settings::read(endpoint)?;
        let mut faults = Vec::new();
        check(&raw, endpoint, &mut faults);
        let address = settings::address(
            &raw.url,
            raw.plain,
            raw.private_network,
            policy,
            &mut faults,
        );
        let public = address.as_ref().is_some_and(|a| a.reach == Reach::Public);
        if public && endpoint.retry.first_ms < RETRY_FIRST_MS_MIN {
            let why = "is at least 60s: the hub must know what it took before it is asked for it";
            faults.push(Violation::new("retry.first", why));
        }
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        match address {
            Some(address) if faults.is_empty() => Ok(Self {
                address,
                tls_profile: raw.tls_profile,
                mailbox: raw.mailbox,
                password: raw.password,
                shared_key: raw.shared_key,
                to: raw.to,
                accepts: raw.accepts.unwrap_or_else(|| vec![raw.workflow.clone()]),
                workflow: raw.workflow,
                acknowledges: raw.acknowledges,
                ods: raw.ods,
                payload: raw.payload,
                hl7v2: raw.hl7v2,
                fhir: raw.fhir,
                assume: raw.assume,
                every: seconds(raw.poll_seconds),
                left_after: seconds(raw.left_after_seconds),
                chunk_bytes: usize::try_from(raw.chunk_bytes).unwrap_or(usize::MAX),
            }),
            _ => Err(faults),
        }
    }

    /// The workflow under which the agency answers what we send.
    pub(super) fn ack_workflow(&self) -> String {
        ack_of(&self.workflow)
    }

    /// The name by which the directory binds the agency's mailbox.
    pub(super) fn peer(&self) -> String {
        super::identity_of(&self.to)
    }
}

/// The workflow under which what came under another is answered.
pub(super) fn ack_of(workflow: &str) -> String {
    format!("{workflow}{ACK_SUFFIX}")
}

fn check(raw: &Raw, endpoint: &Endpoint, faults: &mut Vec<Violation>) {
    let mut need = |ok: bool, key: &str, why: &str| {
        if !ok {
            faults.push(Violation::new(format!("settings.{key}"), why));
        }
    };
    let why = "is a mailbox id: letters and digits, upper case";
    need(is_mailbox(&raw.mailbox), "mailbox", why);
    need(is_mailbox(&raw.to), "to", why);
    need(
        raw.to != raw.mailbox,
        "to",
        "is the agency's mailbox, not ours",
    );
    let why = "is a workflow id of 1 to 296 letters, digits, '_', '-' and '.'";
    need(is_workflow(&raw.workflow), "workflow", why);
    if let Some(accepts) = &raw.accepts {
        let few = (1..=ACCEPTS_MAX).contains(&accepts.len());
        need(few, "accepts", "names 1 to 10 workflows");
        need(accepts.iter().all(|w| is_workflow(w)), "accepts", why);
        let acks = accepts
            .iter()
            .any(|w| w.strip_suffix(ACK_SUFFIX) == Some(&raw.workflow));
        need(!acks, "accepts", "acknowledgements are taken in anyhow");
    }
    let coded = |code: &String| {
        (1..=12).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    need(raw.ods.as_ref().is_none_or(coded), "ods", "is an ODS code");
    need(
        (1..=POLL_SECONDS_MAX).contains(&raw.poll_seconds),
        "poll_seconds",
        "is 1 to 86400",
    );
    need(
        (1..=LEFT_AFTER_SECONDS_MAX).contains(&raw.left_after_seconds),
        "left_after_seconds",
        "is 1 to 432000",
    );
    need(
        (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&raw.chunk_bytes),
        "chunk_bytes",
        "is 1024 to 100000000",
    );
    need(
        raw.payload != Payload::Hl7v2 || raw.hl7v2.is_some(),
        "hl7v2",
        "is required where the payload is hl7v2",
    );
    need(
        raw.payload != Payload::Fhir || raw.fhir.is_some(),
        "fhir",
        "is required where the payload is fhir",
    );
    if endpoint.releases_at <= Evidence::Sent {
        let why =
            "is at least transport_ack: that the hub has a message says nothing of the agency";
        faults.push(Violation::new("releases_at", why));
    }
    if let Some(table) = &raw.hl7v2
        && let Err(wrong) = body::dialect(endpoint, table)
    {
        faults.extend(body::within("hl7v2", wrong));
    }
    if let Some(table) = &raw.fhir {
        faults.extend(body::within("fhir", fhir::carried::faults(endpoint, table)));
    }
}

fn is_mailbox(text: &str) -> bool {
    (1..=MAILBOX_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

fn is_workflow(text: &str) -> bool {
    (1..=WORKFLOW_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}
