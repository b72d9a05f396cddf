//! What each adapter makes of bytes, without a connection: for fuzzers, benchmarks and their seeds.
//!
//! Every reader of the crate that takes foreign bytes is reached from here, with settings of nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use prost::Message as _;
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::directory::{AdapterKind, CodeMap, Endpoint, Environment};
use waymark_core::id::{AgencyId, Pathway, WireId};
use waymark_core::port::{InboundBody, RenderError, Rendered, Source};
use waymark_core::referral::Referral;
use waymark_core::time::{Clock, Timestamp};
use waymark_proto::v1;
use zeroize::Zeroizing;

use crate::contract::sample;
use crate::grpc::convert::referral_from_proto;
use crate::hl7v2::config::Assumptions;
use crate::hl7v2::mllp;
use crate::{
    AdapterContext, Adapters, EgressPolicy, Peers, ProfileError, Secrets, body, fhir, file, grpc,
    mesh, notify, webhook,
};

/// The settings that everything is written and read with.
const SETTINGS: [(AdapterKind, &str); 8] = [
    (
        AdapterKind::Grpc,
        "url = \"https://far.example\"\npeer_identity = \"spiffe://area/agency/R1L\"",
    ),
    (AdapterKind::Mailbox, ""),
    (
        AdapterKind::Webhook,
        "url = \"https://far.example\"\nsigning_secrets = [\"secret:key\"]",
    ),
    (
        AdapterKind::Hl7v2,
        "host = \"far.example\"\nport = 2575\ntransport = \"tls\"\npeer_uri = \"spiffe://area/agency/R1L\"\nversion = \"2.5\"\nack_mode = \"original\"\n\
         sending_app = \"WAYMARK\"\nsending_facility = \"GW\"\nreceiving_app = \"EPR\"\nreceiving_facility = \"R1L\"",
    ),
    (
        AdapterKind::Fhir,
        "url = \"https://far.example/R4\"\nmode = \"bars\"\nauth = \"mtls\"\ntarget = { value = \"2000011147\" }\n\
         source = { value = \"2000099999\" }",
    ),
    (
        AdapterKind::File,
        "transport = \"folder\"\ndirectory = \"a\"\npayload = \"csv\"\n[assume]\npathway = \"unsorted\"",
    ),
    (
        AdapterKind::Notify,
        "url = \"https://notify.example\"\nprivate_network = true\napi_key = \"secret:key\"",
    ),
    (
        AdapterKind::Mesh,
        "url = \"https://hub.example\"\nprivate_network = true\nmailbox = \"X26ABC1\"\npassword = \"secret:key\"\n\
         shared_key = \"secret:key\"\nto = \"X26ABC2\"\nworkflow = \"SEND_REFERRAL\"\n[assume]\npathway = \"unsorted\"",
    ),
];
/// The instant of every reading.
const NOW: Timestamp = Timestamp::from_ms(1_772_445_600_000);
/// Statuses that an answer is read with.
const STATUSES: [StatusCode; 6] = [
    StatusCode::OK,
    StatusCode::ACCEPTED,
    StatusCode::BAD_REQUEST,
    StatusCode::CONFLICT,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
];

struct Nothing;

impl Secrets for Nothing {
    fn secret(&self, _name: &str) -> Option<Zeroizing<Vec<u8>>> {
        None
    }
}

impl Peers for Nothing {
    fn agency_of(&self, _identity: &str) -> Option<AgencyId> {
        None
    }
}

impl Clock for Nothing {
    fn now(&self) -> Timestamp {
        NOW
    }
}

fn endpoint(adapter: AdapterKind) -> Endpoint {
    let settings = SETTINGS.iter().find(|(kind, _)| *kind == adapter);
    let settings = settings.map_or("", |(_, settings)| settings);
    Endpoint {
        adapter,
        settings: settings.parse().expect("the settings are TOML"),
        releases_at: match adapter {
            AdapterKind::Notify | AdapterKind::Mesh => Evidence::TransportAck,
            _ => Evidence::ApplicationAck,
        },
        ..sample::endpoint()
    }
}

/// An endpoint of each adapter, and the adapters.
#[derive(Debug)]
pub struct Inspector {
    adapters: Adapters,
    endpoints: BTreeMap<&'static str, Endpoint>,
    fhir: fhir::server::Server,
    file: file::inspect::Reader,
    mesh: mesh::inspect::Reader,
    assume: Assumptions,
}

impl Inspector {
    /// Makes the adapters.
    ///
    /// # Errors
    /// Never: it uses no TLS profile.
    ///
    /// # Panics
    /// Never: every literal in it is valid.
    pub fn new() -> Result<Self, ProfileError> {
        let context = AdapterContext {
            profiles: BTreeMap::new(),
            secrets: Arc::new(Nothing),
            peers: Arc::new(Nothing),
            environment: Environment::Test,
            egress: EgressPolicy::AsFlagged,
            clock: Arc::new(Nothing),
            intake: None,
            files_root: None,
        };
        let pathway: Pathway = "unsorted".parse().expect("a pathway is letters");
        Ok(Self {
            adapters: Adapters::new(&context)?,
            endpoints: SETTINGS
                .map(|(kind, _)| (kind.as_str(), endpoint(kind)))
                .into(),
            fhir: fhir::inspect::server(&pathway),
            file: file::inspect::Reader::new(&endpoint(AdapterKind::File))
                .expect("the settings are right"),
            mesh: mesh::inspect::Reader::new(Endpoint {
                agency: sample::source(Kind::New).sender,
                ..endpoint(AdapterKind::Mesh)
            })
            .expect("the settings are right"),
            assume: Assumptions::of(pathway),
        })
    }

    /// Writes a message as the adapter sends it.
    ///
    /// # Errors
    /// Why the adapter cannot carry it.
    ///
    /// # Panics
    /// Never: there are settings for each kind.
    pub fn write(&self, kind: AdapterKind, source: &Source) -> Result<Rendered, RenderError> {
        self.adapters
            .adapter(kind)
            .render(source, self.endpoint(kind))
    }

    fn endpoint(&self, kind: AdapterKind) -> &Endpoint {
        let found = self.endpoints.get(kind.as_str());
        found.expect("there is an endpoint of each kind")
    }

    /// Reads a message as the adapter takes it in; nothing where it refuses it. What comes by gRPC is a dispatch of the
    /// contract, by webhook and Notify a callback's body, in files the manifest's line and the files behind it.
    ///
    /// # Panics
    /// Never: there are settings for each kind.
    pub fn read(&self, kind: AdapterKind, bytes: &[u8]) -> Option<Vec<InboundBody>> {
        let one = |body: InboundBody| vec![body];
        match kind {
            AdapterKind::Grpc | AdapterKind::Mailbox => {
                let dispatch = v1::Dispatch::decode(bytes).ok()?;
                let referral = referral_from_proto(dispatch.referral?).ok()?;
                Some(one(body::submit(referral)))
            }
            AdapterKind::Webhook => {
                let (_, status) = webhook::read_status(bytes).ok()?;
                Some(one(InboundBody::Status(status)))
            }
            AdapterKind::Hl7v2 => {
                let said = body::hl7(bare(bytes), Some(&self.assume), &CodeMap::default(), &[]);
                said.ok().map(|said| one(said.body))
            }
            AdapterKind::Fhir => fhir::inspect::read(&self.fhir, bytes).map(one),
            AdapterKind::File => self.file.read(bytes),
            AdapterKind::Notify => notify::inspect::read(self.endpoint(kind), bytes).map(one),
            AdapterKind::Mesh => self.mesh.read(bytes).map(one),
        }
    }

    /// Reads bytes in every other way in which the adapter reads what comes: as answers, acknowledgements, receipts.
    pub fn read_otherwise(&self, kind: AdapterKind, bytes: &[u8]) {
        let headers = HeaderMap::new();
        let source = sample::source(Kind::New);
        let wire = &source.wire_id;
        match kind {
            AdapterKind::Grpc | AdapterKind::Mailbox => grpc::inspect::answers(&source, bytes),
            AdapterKind::Webhook => webhook::inspect::answers(wire, &headers, bytes),
            AdapterKind::Hl7v2 => hl7(bytes),
            AdapterKind::Fhir => fhir::inspect::answers(&self.fhir, &headers, bytes),
            AdapterKind::File => file::inspect::notes(wire, bytes),
            AdapterKind::Notify => notify::inspect::answers(wire, &headers, bytes),
            AdapterKind::Mesh => mesh::inspect::answers(wire, &headers, bytes),
        }
    }

    /// Sends on, by the same adapter, a referral that came in: what it writes, it reads. Not for webhooks and Notify, which
    /// take no referrals in.
    ///
    /// # Errors
    /// The bytes that it wrote and does not read. A referral that breaks a rule is not sent on, and one that the adapter
    /// refuses to carry is no error.
    pub fn again(&self, kind: AdapterKind, referral: &Referral) -> Result<(), Vec<u8>> {
        let mut source = sample::source(Kind::New);
        if !referral.violations(source.at.london_date()).is_empty() {
            return Ok(());
        }
        source
            .sender_reference
            .clone_from(&referral.sender_reference);
        source.content = Some(referral.clone());
        let Ok(rendered) = self.write(kind, &source) else {
            return Ok(());
        };
        let bytes = rendered.bytes.expose();
        match self.read(kind, bytes) {
            Some(_) => Ok(()),
            None => Err(bytes.to_vec()),
        }
    }
}

/// A message of HL7 v2 without the frame that MLLP puts around it.
fn bare(bytes: &[u8]) -> &[u8] {
    let inner = bytes.strip_prefix(&[mllp::START_BLOCK]);
    let end = [mllp::END_BLOCK, mllp::CARRIAGE_RETURN];
    inner
        .and_then(|inner| inner.strip_suffix(&end))
        .unwrap_or(bytes)
}

fn hl7(bytes: &[u8]) {
    use crate::hl7v2::ack::AckReading;
    use crate::hl7v2::message::{LineEndings, Message};
    use crate::hl7v2::timestamp;

    if let Ok(text) = std::str::from_utf8(bytes) {
        let _date = timestamp::date(text);
        let _instant = timestamp::instant(text, &jiff::tz::TimeZone::UTC);
    }
    if let Ok(message) = Message::parse(bytes, LineEndings::Cr) {
        drop(AckReading::read(&message));
    }
}

/// Every status that an answer is read with.
pub(crate) fn statuses() -> impl Iterator<Item = StatusCode> {
    STATUSES.into_iter()
}

/// The instant of every reading.
pub(crate) const fn now() -> Timestamp {
    NOW
}

/// Reads a receipt for a message.
pub(crate) fn receipt(wire: &WireId, bytes: &[u8]) {
    drop(crate::receipt::Receipt::read(bytes, wire));
    drop(crate::receipt::refusal_code(bytes));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Kinds that take referrals in.
    const BOTH_WAYS: [AdapterKind; 6] = [
        AdapterKind::Grpc,
        AdapterKind::Mailbox,
        AdapterKind::Hl7v2,
        AdapterKind::Fhir,
        AdapterKind::File,
        AdapterKind::Mesh,
    ];

    #[test]
    fn what_an_adapter_writes_it_reads() {
        let inspector = Inspector::new().unwrap();
        for kind in BOTH_WAYS {
            let written = inspector.write(kind, &sample::source(Kind::New)).unwrap();
            let read = inspector.read(kind, written.bytes.expose());
            let read = read.unwrap_or_else(|| panic!("{kind:?} reads what it writes"));
            let [InboundBody::Submit(referral)] = read.as_slice() else {
                panic!("{kind:?}: a referral")
            };
            assert_eq!(inspector.again(kind, referral), Ok(()), "{kind:?}");
        }
    }

    /// What fuzzers found once, and what they begin with.
    #[test]
    fn every_seed_is_read_or_refused_and_what_is_read_is_sent_on() {
        let inspector = Inspector::new().unwrap();
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds");
        let mut count = 0;
        for kind in SETTINGS.map(|(kind, _)| kind) {
            let Ok(folder) = std::fs::read_dir(seeds.join(kind.as_str())) else {
                assert_eq!(kind, AdapterKind::Mailbox, "it reads what gRPC reads");
                continue;
            };
            let mut taken = false;
            for seed in folder {
                let bytes = std::fs::read(seed.unwrap().path()).unwrap();
                inspector.read_otherwise(kind, &bytes);
                for body in inspector.read(kind, &bytes).unwrap_or_default() {
                    taken = true;
                    if let InboundBody::Submit(referral) | InboundBody::Amend(_, referral) = &body {
                        assert_eq!(inspector.again(kind, referral), Ok(()), "{kind:?}");
                    }
                }
                count += 1;
            }
            assert!(taken, "some seed of {kind:?} is a message");
        }
        assert!(count >= 20, "{count}");
    }
}
