//! Every way in by every way out: what keeps a child safe arrives, whichever two a referral takes (scenario 18).

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use waymark::clock::SystemClock;
use waymark_adapters::contract::sample;
use waymark_adapters::hl7v2::build::Version;
use waymark_adapters::hl7v2::config::Settings;
use waymark_adapters::hl7v2::map::outward;
use waymark_adapters::{AdapterContext, Adapters, EgressPolicy, Peers, Secrets};
use waymark_core::delivery::Kind;
use waymark_core::directory::{AdapterKind, Directory, Environment};
use waymark_core::id::{AgencyId, DeliveryId, Reference, ReferralId, WireId};
use waymark_core::port::Source;
use waymark_core::referral::Referral;
use waymark_tests::actors::mesh::{Hub, OURS, PASSWORD, SHARED_KEY, THEIRS, WORKFLOW};
use waymark_tests::actors::{Hospital, MentalHealth, Therapy, send};
use waymark_tests::gateway::Client;
use zeroize::Zeroizing;

use super::super::{Bodies, changed, strict};
use super::*;

waymark_tests::both_engines! {
    what_keeps_a_child_safe_arrives_whichever_way_in_and_out,
}

const EVERYWHERE: &str = "everywhere";
/// What every wire must hold of the sample referral: a flag's code and text, an adjustment, how the parent reads.
const WORDS: [&str; 4] = [
    "836881000000105",
    "stays at grandmother's flat since january",
    "requiresinformationineasyread",
    "easy read",
];
/// The endpoints of the area, each of another protocol.
const ENDPOINTS: [&str; 7] = [
    "cam01-grpc",
    "comm1-mesh",
    "fhr-fhir",
    "r1l-mllp",
    "sens1-files",
    "spec1-mailbox",
    "therapy-webhook",
];
const FOLDER: &str = "agencies/sens1";

/// A team with a folder, and the rule that sends one pathway to everybody.
const MORE: &str = r#"
[[agency]]
id = "SENS1"
name = "Sensory team"
sector = "education"

[[identity]]
name = "file:sens1-files"
agency = "SENS1"

[[service]]
id = "sensory"
name = "Sensory support"
agency = "SENS1"
pathways = ["sensory-support"]
endpoint = "sens1-files"
owner_role = "Team lead"

[[endpoint]]
id = "sens1-files"
agency = "SENS1"
adapter = "file"
[endpoint.settings]
transport = "folder"
directory = "agencies/sens1"
every_s = 1

[[rule]]
id = "everywhere"
pathway = "everywhere"
to = ["paediatrics", "therapy", "mental-health", "specialist-teaching", "neurodevelopment", "community", "sensory"]
"#;

/// A referral of a child of its own, with all that the wires must carry.
fn referral(n: u32) -> anyhow::Result<Referral> {
    let mut value = serde_json::to_value(sample::referral())?;
    value["documents"] = json!([]);
    value["pathway"] = json!(EVERYWHERE);
    value["child"]["upn"] = json!(Child(n).upn());
    value["child"]["nhs_number"] = json!(Child(n).nhs());
    value["consent"]["scope"] = json!(["referral", "share_health", "share_education"]);
    value["sender_reference"]["value"] = json!(format!("MATRIX-{n}"));
    Ok(serde_json::from_value(value)?)
}

/// The same as a message that somebody else's system sends.
fn message(n: u8) -> anyhow::Result<Source> {
    let content = referral(u32::from(n))?;
    let delivery = DeliveryId::from_bytes([n; 16]);
    let referral = ReferralId::from_bytes([n; 16]);
    Ok(Source {
        delivery,
        wire_id: WireId::of(delivery),
        referral,
        reference: Reference::of(referral),
        sender_reference: content.sender_reference.clone(),
        content: Some(content),
        ..sample::source(Kind::New)
    })
}

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

/// A gateway with a far side of every protocol.
struct Everybody {
    gateway: Gateway,
    admin: Client,
    directory: Directory,
    hub: Hub,
    ground: tempfile::TempDir,
    place: Papers,
    _far: (Hospital, Therapy, MentalHealth, Peer),
}

impl Everybody {
    async fn new(engine: Engine) -> anyhow::Result<Self> {
        let hospital = Hospital::open()?;
        let (mut therapy, mut camhs) = (Therapy::bind().await?, MentalHealth::bind().await?);
        let hub = Hub::open(Arc::new(SystemClock)).await?;
        let ground = tempfile::tempdir()?;
        std::fs::create_dir_all(ground.path().join(FOLDER))?;
        let url = format!("http://127.0.0.1:{}", hub.port());
        let settings = format!("plain = true\nworkflow = \"{WORKFLOW}\"");
        let limits = "attempt_timeout = \"5s\"";
        let (webhook, grpc) = (therapy.port(), camhs.port());
        let files = |fhir: u16| {
            let more = [
                area("bars", fhir).more,
                Area::mesh(&url, limits, &settings).more,
                MORE.to_owned(),
            ];
            let mut files = Area {
                mllp: hospital.port(),
                webhook,
                grpc,
                more: more.concat(),
                ..Area::default()
            }
            .files();
            changed(
                &mut files,
                "pathways = [\"",
                &format!("pathways = [\"{EVERYWHERE}\", \""),
            );
            files
        };
        let mut gateway = Gateway::make(engine, &Area::default(), Duty::Serve).await?;
        gateway.keep_secret("mesh-password", PASSWORD)?;
        gateway.keep_secret("mesh-key", SHARED_KEY)?;
        gateway.config.files.root = Some(ground.path().to_owned());
        gateway.config.listen.fhir = Some(FhirListener {
            address: ([127, 0, 0, 1], 0).into(),
            targets: vec![TARGET.to_owned()],
            assume: MllpAssumptions {
                pathway: EVERYWHERE.parse()?,
                pathways: BTreeMap::new(),
                lawful_basis: LawfulBasis::PublicTaskCare,
                consent_scope: Vec::new(),
            },
        });
        gateway.restart().await?;
        therapy.serve(
            &gateway.issue("waymark:test:agency:THER1")?,
            &gateway.secret("therapy-webhook")?,
        )?;
        camhs.serve(&gateway.issue("waymark:test:agency:CAM01")?, &gateway.ca()?)?;
        let papers = Papers::of(&gateway, FAR_SIDE)?;
        let (cert, key, ca) = (papers.path("cert"), papers.path("key"), papers.path("ca"));
        let peer = Peer::start(SERVER, &["--tls", &cert, &key, &ca]).await?;
        let files = files(peer.port());
        gateway.apply(&files).await?;
        let directory = Directory::load(&files)
            .map_err(|findings| anyhow::anyhow!("the directory: {findings:?}"))?;
        Ok(Self {
            admin: gateway.client("admin-LA882").await?,
            place: Papers::of(&gateway, "waymark:test:agency:EE123456")?,
            gateway,
            directory,
            hub,
            ground,
            _far: (hospital, therapy, camhs, peer),
        })
    }

    async fn by_grpc(&self) -> anyhow::Result<()> {
        let school = self.gateway.client("EE123456").await?;
        let mut referral = Child(240).referral(EVERYWHERE);
        referral["safeguardingFlags"] = json!([{ "system": "http://snomed.info/sct",
            "code": "836881000000105", "text": "stays at grandmother's flat since January" }]);
        referral["reasonableAdjustments"] = json!([{ "code": "requiresinformationineasyread" }]);
        referral["contacts"][0]["preferredFormat"] = "CONTACT_FORMAT_EASY_READ".into();
        school.submit("matrix", &referral).await?;
        Ok(())
    }

    async fn by_hl7v2(&self) -> anyhow::Result<()> {
        let mut endpoint = strict::endpoint(Version::V25, "");
        for (key, value) in [
            ("sending_app", "EPR"),
            ("sending_facility", "R1L"),
            ("receiving_app", "WAYMARK"),
            ("receiving_facility", "SOUTHMERE"),
            ("ack_mode", "original"),
        ] {
            endpoint.settings.insert(key.to_owned(), value.into());
        }
        let settings = Settings::read(&endpoint).expect("the settings are right");
        let text = outward::render(&message(241)?, &settings)?;
        let listener = self
            .gateway
            .app()?
            .mllp
            .get("r1l")
            .context("the listener")?;
        let answer = send(*listener, &text).await?;
        assert!(answer.contains("\rMSA|AA|"), "{answer}");
        Ok(())
    }

    async fn by_fhir(&self) -> anyhow::Result<()> {
        let adapters = Adapters::new(&AdapterContext {
            profiles: BTreeMap::new(),
            secrets: Arc::new(Nothing),
            peers: Arc::new(Nothing),
            environment: Environment::Test,
            egress: EgressPolicy::AsFlagged,
            clock: Arc::new(SystemClock),
            intake: None,
            files_root: None,
        })?;
        let endpoint = self
            .directory
            .endpoints
            .get(&"fhr-fhir".parse()?)
            .context("the endpoint")?;
        let rendered = adapters
            .adapter(AdapterKind::Fhir)
            .render(&message(242)?, endpoint)?;
        let bundle = self.place.folder.path().join("matrix.json");
        std::fs::write(&bundle, rendered.bytes.expose())?;
        let address = self.gateway.app()?.fhir.context("FHIR is served")?;
        let url = format!("https://{address}/$process-message");
        let (ca, cert, key) = (
            self.place.path("ca"),
            self.place.path("cert"),
            self.place.path("key"),
        );
        let file = shown(&bundle);
        let args = [
            "POST", &url, "--ca", &ca, "--cert", &cert, "--key", &key, "--file", &file, "--bars",
            TARGET,
        ];
        let said = run(SENDER, &args).await?.json()?;
        assert_eq!(said["status"], 200, "{said}");
        Ok(())
    }

    fn by_mesh(&self) -> anyhow::Result<()> {
        let event = json!({"type": "referral.new", "environment": "test",
            "data": {"referral": referral(243)?}});
        let bytes = event.to_string().into_bytes();
        self.hub.put(THEIRS, OURS, WORKFLOW, &[], &[&bytes]);
        Ok(())
    }

    fn by_file(&self) -> anyhow::Result<()> {
        let data = serde_json::to_vec(&referral(244)?)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &data);
        let manifest = json!({"version": 1, "environment": "test", "id": "F1", "kind": "new",
            "created": "2026-03-02T10:00:00Z", "format": "canonical", "files": [{"name": "F1.json",
            "role": "data", "size": data.len(), "media_type": "application/json",
            "sha256": hex::encode(digest)}]});
        let inbox = self.ground.path().join(FOLDER).join("inbox");
        std::fs::create_dir_all(&inbox)?;
        std::fs::write(inbox.join("F1.json"), data)?;
        // Whole files alone are looked at: the manifest comes last, and at once.
        std::fs::write(inbox.join("F1.part"), manifest.to_string())?;
        std::fs::rename(inbox.join("F1.part"), inbox.join("F1.manifest.json"))?;
        Ok(())
    }

    /// The deliveries of the referral that came last, once each of them is with its far side.
    async fn delivered(&self, known: &[String]) -> anyhow::Result<(String, Vec<v1::Delivery>)> {
        let all = || async {
            let all = self
                .admin
                .admin()
                .list_deliveries(v1::ListDeliveriesRequest {
                    page_size: 200,
                    ..v1::ListDeliveriesRequest::default()
                })
                .await?
                .into_inner();
            anyhow::Ok(all.deliveries)
        };
        let new = wait_until("a referral is taken in", PATIENCE, || async {
            let found = all().await?;
            let mut new = found.iter().map(|d| &d.referral_id);
            Ok(new.find(|id| !known.contains(id)).cloned())
        })
        .await?;
        self.gateway.client("SPEC1").await?.fetch_one(&new).await?;
        wait_until("each far side has it", PATIENCE, || async {
            let found: Vec<_> = all().await?;
            let of: Vec<_> = found
                .into_iter()
                .filter(|d| d.referral_id == new && d.kind() == v1::MessageKind::New)
                .collect();
            let there = |d: &v1::Delivery| {
                d.endpoint_id == "spec1-mailbox" || d.evidence() != EvidenceGrade::None
            };
            Ok((of.len() == ENDPOINTS.len() && of.iter().all(there)).then_some((new.clone(), of)))
        })
        .await
    }
}

/// What a wire says, as far as words go.
fn said(endpoint: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let text = match endpoint {
        "cam01-grpc" | "spec1-mailbox" => {
            let dispatch = v1::Dispatch::decode(bytes)?;
            serde_json::to_string(&dispatch.referral.context("its referral")?)?
        }
        _ => String::from_utf8(bytes.to_vec())?,
    };
    Ok(text.to_lowercase().replace('_', " "))
}

async fn what_keeps_a_child_safe_arrives_whichever_way_in_and_out(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let (mut known, mut bodies) = (Vec::new(), Bodies::new());
    let store = everybody.gateway.store()?;
    for way in ["grpc", "hl7v2", "fhir", "mesh", "file"] {
        match way {
            "grpc" => everybody.by_grpc().await?,
            "hl7v2" => everybody.by_hl7v2().await?,
            "fhir" => everybody.by_fhir().await?,
            "mesh" => everybody.by_mesh()?,
            _ => everybody.by_file()?,
        }
        let (id, deliveries) = everybody
            .delivered(&known)
            .await
            .with_context(|| format!("by {way}"))?;
        known.push(id);
        let mut to: Vec<&str> = deliveries.iter().map(|d| d.endpoint_id.as_str()).collect();
        to.sort_unstable();
        assert_eq!(to, ENDPOINTS, "by {way}");
        for delivery in &deliveries {
            let bytes = bodies.of(store, &delivery.wire_id).await?;
            let text = said(&delivery.endpoint_id, &bytes)?;
            for word in WORDS {
                let to = &delivery.endpoint_id;
                assert!(text.contains(word), "{word:?} by {way} to {to}: {text}");
            }
        }
    }
    assert!(everybody.admin.conservation().await?.balanced);
    Ok(())
}
