//! The settings of one HL7 v2 endpoint, checked without I/O, and what an inbound side assumes of a
//! sender whose messages cannot say it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use waymark_core::directory::{CodeMap, Endpoint};
use waymark_core::error::Violation;
use waymark_core::id::Pathway;
use waymark_core::referral::{ConsentScope, LawfulBasis, Priority};

use super::build::Party;
use super::dialect::{Dialect, StatusAs, Written};
use super::inbound::INTAKE_TIMEOUT;
use super::map::code;

/// The longest name of an application, facility or namespace, in characters (HL7 2.5 gives IS twenty).
pub const PARTY_CHARS_MAX: usize = 20;
/// The namespace of our references, unless an endpoint says otherwise.
pub const REFERENCE_NAMESPACE: &str = "WAYMARK";
/// The longest any timeout may be set.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(2);

const CONNECT_TIMEOUT_MS: u64 = 5_000;
const ACK_TIMEOUT_MS: u64 = 30_000;
const APPLICATION_ACK_TIMEOUT_MS: u64 = 10_000;

/// How the bytes travel, and what that proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// TLS with the profile of this name; the peer's certificate must carry the names.
    Tls {
        /// The name of the TLS profile: roots and our own certificate.
        profile: String,
        /// The DNS name or address that the peer's certificate must be for.
        server_name: String,
        /// The SAN URI that it must carry besides.
        peer_uri: Option<String>,
    },
    /// Plain TCP over one private interface of this machine: a standing risk.
    Plain {
        /// The local address of that interface.
        interface: IpAddr,
    },
}

/// Whether bytes that may have arrived may be sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resend {
    /// Yes: the receiver tells repeats by MSH-10.
    #[default]
    SameId,
    /// No: a person must ask the receiver first.
    Never,
}

/// The settings of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name or address of the receiver.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the bytes travel.
    pub transport: Transport,
    /// MSH-3 and 4: what it knows this gateway as.
    pub sending: Party,
    /// MSH-5 and 6: what it calls itself, and what its acknowledgements must say in MSH-3 and 4.
    pub receiving: Party,
    /// The namespace of our references in RF1-6.
    pub reference_namespace: String,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long the first acknowledgement may take.
    pub ack_timeout: Duration,
    /// How long the application's acknowledgement may take after a commit; it may still come later.
    pub application_ack_timeout: Duration,
    /// Whether to repeat after an unknown end.
    pub resend: Resend,
    /// Whether the child's address goes into PID-11.
    pub send_address: bool,
    /// How this receiver's messages differ from everybody's.
    pub dialect: Dialect,
    /// How its code lists say what the canonical lists say.
    pub codes: CodeMap,
    /// Whether it is asked by REF^I15 where the referral stands before a cancel is written.
    pub ask_before_cancel: bool,
    /// Whether a connection serves one message after another.
    pub reuse_connection: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawTransport {
    Tls,
    Plain,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    host: String,
    port: u16,
    transport: RawTransport,
    tls_profile: Option<String>,
    server_name: Option<String>,
    peer_uri: Option<String>,
    interface: Option<IpAddr>,
    version: String,
    ack_mode: String,
    charset: Option<String>,
    #[serde(default)]
    extra_segments: Vec<String>,
    #[serde(default)]
    status_as: StatusAs,
    inline_bytes_max: Option<u64>,
    #[serde(default)]
    ask_before_cancel: bool,
    #[serde(default = "yes")]
    reuse_connection: bool,
    sending_app: String,
    sending_facility: String,
    receiving_app: String,
    receiving_facility: String,
    #[serde(default = "default_namespace")]
    reference_namespace: String,
    connect_timeout_ms: Option<u64>,
    ack_timeout_ms: Option<u64>,
    application_ack_timeout_ms: Option<u64>,
    #[serde(default)]
    resend: Resend,
    #[serde(default = "yes")]
    send_address: bool,
}

fn default_namespace() -> String {
    REFERENCE_NAMESPACE.to_owned()
}

fn yes() -> bool {
    true
}

impl Settings {
    /// Reads the settings of an endpoint.
    ///
    /// # Errors
    /// Every setting that is wrong, and how to put it right.
    pub fn read(endpoint: &Endpoint) -> Result<Self, Vec<Violation>> {
        let raw: RawSettings = endpoint
            .settings
            .clone()
            .try_into()
            .map_err(|error| vec![Violation::new("settings", error.to_string())])?;
        let mut faults = Vec::new();
        check(
            !raw.host.trim().is_empty(),
            "host",
            "is required",
            &mut faults,
        );
        check(raw.port != 0, "port", "is from 1 to 65535", &mut faults);
        for (name, value) in [
            ("sending_app", &raw.sending_app),
            ("sending_facility", &raw.sending_facility),
            ("receiving_app", &raw.receiving_app),
            ("receiving_facility", &raw.receiving_facility),
            ("reference_namespace", &raw.reference_namespace),
        ] {
            let good = (1..=PARTY_CHARS_MAX).contains(&value.chars().count())
                && value.trim() == value
                && !value.chars().any(char::is_control);
            check(
                good,
                name,
                "has 1 to 20 characters without spaces around them",
                &mut faults,
            );
        }
        let mut timeout = |name: &'static str, value: Option<u64>, default: u64| {
            let timeout = Duration::from_millis(value.unwrap_or(default));
            let good = !timeout.is_zero() && timeout <= TIMEOUT_MAX;
            check(good, name, "is from 1 to 120000 milliseconds", &mut faults);
            timeout
        };
        let connect_timeout = timeout(
            "connect_timeout_ms",
            raw.connect_timeout_ms,
            CONNECT_TIMEOUT_MS,
        );
        let ack_timeout = timeout("ack_timeout_ms", raw.ack_timeout_ms, ACK_TIMEOUT_MS);
        let application_ack_timeout = timeout(
            "application_ack_timeout_ms",
            raw.application_ack_timeout_ms,
            APPLICATION_ACK_TIMEOUT_MS,
        );
        // A refusal that comes meanwhile to the listener is tried until the attempt has ended, and not longer than that.
        check(
            application_ack_timeout < INTAKE_TIMEOUT,
            "application_ack_timeout_ms",
            "is below 20000 milliseconds: a late refusal is not tried longer",
            &mut faults,
        );
        let dialect = Dialect::read(
            &Written {
                version: &raw.version,
                ack_mode: &raw.ack_mode,
                charset: raw.charset.as_deref(),
                extra_segments: &raw.extra_segments,
                status_as: raw.status_as,
                inline_bytes_max: raw.inline_bytes_max,
            },
            &mut faults,
        );
        safe_priorities(&endpoint.codes, &mut faults);
        let transport = transport(&raw, &mut faults);
        let (Some(transport), true) = (transport, faults.is_empty()) else {
            return Err(faults);
        };
        Ok(Self {
            host: raw.host,
            port: raw.port,
            transport,
            sending: Party {
                app: raw.sending_app,
                facility: raw.sending_facility,
            },
            receiving: Party {
                app: raw.receiving_app,
                facility: raw.receiving_facility,
            },
            reference_namespace: raw.reference_namespace,
            connect_timeout,
            ack_timeout,
            application_ack_timeout,
            resend: raw.resend,
            send_address: raw.send_address,
            dialect,
            codes: endpoint.codes.clone(),
            ask_before_cancel: raw.ask_before_cancel,
            reuse_connection: raw.reuse_connection && raw.resend == Resend::SameId,
        })
    }
}

/// A code map may not make a priority later than it was: one that it leaves to the default goes out as a code that it
/// reads as something else.
fn safe_priorities(codes: &CodeMap, faults: &mut Vec<Violation>) {
    for priority in Priority::ALL {
        let sent = code::priority_out(codes, *priority);
        let read = code::priority_in(codes, &sent.system, &sent.code);
        if read.is_none_or(|read| read < *priority) {
            let why = format!("{priority} would be read back as later: map it too");
            faults.push(Violation::new("code_map.priority", why));
        }
    }
}

pub(super) fn check(good: bool, name: &str, why: &str, faults: &mut Vec<Violation>) {
    if !good {
        faults.push(Violation::new(format!("settings.{name}"), why));
    }
}

fn transport(raw: &RawSettings, faults: &mut Vec<Violation>) -> Option<Transport> {
    match raw.transport {
        RawTransport::Tls => {
            let none = raw.interface.is_none();
            check(
                none,
                "interface",
                "belongs to transport plain: leave it out",
                faults,
            );
            Some(Transport::Tls {
                profile: raw
                    .tls_profile
                    .clone()
                    .unwrap_or_else(|| "default".to_owned()),
                server_name: raw.server_name.clone().unwrap_or_else(|| raw.host.clone()),
                peer_uri: raw.peer_uri.clone(),
            })
        }
        RawTransport::Plain => {
            let tls = [&raw.tls_profile, &raw.server_name, &raw.peer_uri];
            let none = tls.iter().all(|setting| setting.is_none());
            check(
                none,
                "transport",
                "plain has no TLS profile, server name or peer URI",
                faults,
            );
            let interface = raw.interface.filter(|address| is_private(*address));
            let why = "plain needs the private address of the interface that it leaves by";
            check(interface.is_some(), "interface", why, faults);
            interface.map(|interface| Transport::Plain { interface })
        }
    }
}

/// Says whether an address is one of a private network, or of this machine alone.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_loopback(),
    }
}

/// What a message of HL7 v2 cannot say and the agreement with its sender says once for all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assumptions {
    /// The pathway of a referral whose reason names none.
    pub pathway: Pathway,
    /// Pathways by the reason code of RF1-10.
    #[serde(default)]
    pub pathways: BTreeMap<String, Pathway>,
    /// The lawful basis of sharing.
    #[serde(default = "default_basis")]
    pub lawful_basis: LawfulBasis,
    /// What the consent covers that the sender holds by agreement.
    #[serde(default = "default_scope")]
    pub consent_scope: Vec<ConsentScope>,
}

fn default_basis() -> LawfulBasis {
    LawfulBasis::PublicTaskCare
}

fn default_scope() -> Vec<ConsentScope> {
    vec![ConsentScope::Referral]
}

impl Assumptions {
    /// Assumes nothing but this pathway: the basis is care, consent covers the referral alone.
    pub fn of(pathway: Pathway) -> Self {
        Self {
            pathway,
            pathways: BTreeMap::new(),
            lawful_basis: default_basis(),
            consent_scope: default_scope(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use waymark_core::delivery::{Evidence, RetryPolicy};
    use waymark_core::directory::{AdapterKind, Validity};

    use super::*;

    pub(in crate::hl7v2) const PLAIN: &str = r#"
        host = "127.0.0.1"
        port = 2575
        transport = "plain"
        interface = "127.0.0.1"
        version = "2.5"
        ack_mode = "original"
        sending_app = "WAYMARK"
        sending_facility = "WM01"
        receiving_app = "PAEDPAS"
        receiving_facility = "R1L"
    "#;

    pub(in crate::hl7v2) fn endpoint(settings: &str) -> Endpoint {
        Endpoint {
            id: "paed-mllp".parse().unwrap(),
            agency: "R1L".parse().unwrap(),
            adapter: AdapterKind::Hl7v2,
            settings: settings.parse().unwrap(),
            releases_at: Evidence::ApplicationAck,
            deadline: Duration::from_hours(1),
            evidence_within: Duration::from_hours(1),
            attempt_timeout: Duration::from_mins(1),
            concurrency: 4,
            retry: RetryPolicy::default(),
            codes: CodeMap::default(),
            validity: Validity::default(),
        }
    }

    fn faults(settings: &str) -> Vec<String> {
        let faults = Settings::read(&endpoint(settings)).unwrap_err();
        faults
            .into_iter()
            .map(|violation| violation.field)
            .collect()
    }

    #[test]
    fn settings_are_read_with_their_defaults() {
        let settings = Settings::read(&endpoint(PLAIN)).unwrap();
        assert_eq!(settings.reference_namespace, "WAYMARK");
        assert_eq!(settings.ack_timeout, Duration::from_secs(30));
        assert_eq!(settings.resend, Resend::SameId);
        assert!(settings.send_address);
        let tls = PLAIN
            .replace("plain", "tls")
            .replace("interface = \"127.0.0.1\"", "");
        let settings = Settings::read(&endpoint(&tls)).unwrap();
        let expected = Transport::Tls {
            profile: "default".into(),
            server_name: "127.0.0.1".into(),
            peer_uri: None,
        };
        assert_eq!(settings.transport, expected);
    }

    #[test]
    fn each_wrong_setting_is_named() {
        for (from, to, field) in [
            ("port = 2575", "port = 0", "settings.port"),
            ("host = \"127.0.0.1\"", "host = \" \"", "settings.host"),
            ("\"WAYMARK\"", "\"\"", "settings.sending_app"),
            (
                "\"R1L\"",
                "\"ABCDEFGHIJKLMNOPQRSTU\"",
                "settings.receiving_facility",
            ),
            ("interface = \"127.0.0.1\"", "", "settings.interface"),
            (
                "interface = \"127.0.0.1\"",
                "interface = \"8.8.8.8\"",
                "settings.interface",
            ),
            (
                "transport = \"plain\"",
                "transport = \"tls\"",
                "settings.interface",
            ),
            (
                "port = 2575",
                "port = 2575\npeer_uri = \"urn:x\"",
                "settings.transport",
            ),
            (
                "port = 2575",
                "port = 2575\nack_timeout_ms = 0",
                "settings.ack_timeout_ms",
            ),
            (
                "port = 2575",
                "port = 2575\nconnect_timeout_ms = 120001",
                "settings.connect_timeout_ms",
            ),
            (
                "port = 2575",
                "port = 2575\napplication_ack_timeout_ms = 20000",
                "settings.application_ack_timeout_ms",
            ),
            ("port = 2575", "port = 2575\nunknown = 1", "settings"),
            ("\"2.5\"", "\"2.2\"", "settings.version"),
            ("\"original\"", "\"both\"", "settings.ack_mode"),
            (
                "port = 2575",
                "port = 2575\ncharset = \"8859/2\"",
                "settings.charset",
            ),
            (
                "port = 2575",
                "port = 2575\nextra_segments = [\"PID|1\"]",
                "settings.extra_segments",
            ),
            (
                "port = 2575",
                "port = 2575\nextra_segments = [\"ZWM|1\\rPID|1\"]",
                "settings.extra_segments",
            ),
            (
                "port = 2575",
                "port = 2575\ninline_bytes_max = 600000",
                "settings.inline_bytes_max",
            ),
        ] {
            assert_eq!(
                faults(&PLAIN.replacen(from, to, 1)),
                [field],
                "{from} -> {to}"
            );
        }
        let edge = PLAIN.replace("\"R1L\"", "\"ABCDEFGHIJKLMNOPQRST\"");
        assert!(Settings::read(&endpoint(&edge)).is_ok());
        for longest in [
            "connect_timeout_ms = 120000",
            "application_ack_timeout_ms = 19999",
        ] {
            let edge = PLAIN.replace("port = 2575", &format!("port = 2575\n{longest}"));
            assert!(Settings::read(&endpoint(&edge)).is_ok(), "{longest}");
        }
    }

    #[test]
    fn a_code_map_that_would_delay_a_child_is_refused() {
        let mut endpoint = endpoint(PLAIN);
        let wire = |code: &str| waymark_core::directory::WireCode {
            code: code.to_owned(),
            system: "HL70280".to_owned(),
            display: String::new(),
        };
        // A is what urgent goes out as by default.
        endpoint.codes.priority.insert(Priority::Routine, wire("A"));
        let faults = Settings::read(&endpoint).unwrap_err();
        assert!(faults.iter().all(|f| f.field == "code_map.priority"));
        assert_eq!(faults.len(), 2, "{faults:?}");
        endpoint.codes.priority.insert(Priority::Soon, wire("B"));
        endpoint.codes.priority.insert(Priority::Urgent, wire("U"));
        assert!(Settings::read(&endpoint).is_ok());
    }
}
