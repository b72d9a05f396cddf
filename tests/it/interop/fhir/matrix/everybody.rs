//! A gateway with a far side of every protocol, and every way to send it a referral, with or without a document.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use waymark::clock::SystemClock;
use waymark_adapters::contract::sample;
use waymark_adapters::hl7v2::build::Version;
use waymark_adapters::hl7v2::map::outward;
use waymark_adapters::inspect::Inspector;
use waymark_core::delivery::Kind;
use waymark_core::directory::{AdapterKind, SourceFile};
use waymark_core::id::{DeliveryId, DocumentId, Reference, ReferralId, WireId};
use waymark_core::personal::Payload;
use waymark_core::port::{Attachment, Source};
use waymark_core::referral::{DocumentRef, Referral};
use waymark_tests::actors::mesh::{Hub, OURS, PASSWORD, SHARED_KEY, THEIRS, WORKFLOW};
use waymark_tests::actors::{Hospital, MentalHealth, Therapy, send};
use waymark_tests::gateway::{Client, Post, field_violations};

use super::*;

/// Every way in.
pub(super) const WAYS: [&str; 5] = ["grpc", "hl7v2", "fhir", "mesh", "file"];
/// The case of every message that goes in by FHIR.
pub(super) const CASE: &str = "7d6b4f1e-52a4-4a3c-9f0e-2b9f6f5b8c11";
/// Bytes of documents that the FHIR adapter writes inline.
const FHIR_INLINE_BYTES: usize = 256 * 1024;

/// A document as a message brings it: its bytes, and what the message says of them.
#[derive(Clone)]
pub(super) struct Paper {
    pub(super) media_type: String,
    pub(super) sha256: String,
    pub(super) bytes: Vec<u8>,
}

/// SHA-256 in lower-case hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

impl Paper {
    /// A PDF of a size; its content differs with `nth`.
    pub(super) fn pdf(nth: u8, size: usize) -> Self {
        let mut bytes = b"%PDF-1.7\n".to_vec();
        bytes.resize(size, nth);
        Self {
            media_type: "application/pdf".to_owned(),
            sha256: digest(&bytes),
            bytes,
        }
    }

    fn named(&self, n: u8) -> DocumentRef {
        DocumentRef {
            id: DocumentId::from_bytes([n; 16]),
            sha256: self.sha256.clone(),
            media_type: self.media_type.clone(),
            size_bytes: u64::try_from(self.bytes.len()).unwrap_or(u64::MAX),
            title: Some("Report".into()),
            kind: Some("report".to_owned()),
        }
    }
}

/// How the gateway answered what was sent to it.
pub(super) enum Said {
    /// It has it, or says so later: a folder and a mailbox answer nothing at once.
    Taken,
    /// It would not take it; where it says so, and why.
    Refused(String),
}

impl Said {
    pub(super) fn taken(self) -> anyhow::Result<()> {
        match self {
            Self::Taken => Ok(()),
            Self::Refused(why) => anyhow::bail!("refused: {why}"),
        }
    }
}

/// What an amendment says that the referral did not.
pub(super) const MORE_WORDS: &str = "now also falls asleep in class";

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

# How these two fetch what is too large for what carries their messages.
[[identity]]
name = "waymark:test:agency:SENS1"
agency = "SENS1"

[[identity]]
name = "waymark:test:agency:COMM1"
agency = "COMM1"

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
incomplete_after_s = 3

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
pub(super) fn message(n: u8, paper: Option<&Paper>) -> anyhow::Result<Source> {
    let mut content = referral(u32::from(n))?;
    content.documents = paper.map(|paper| paper.named(n)).into_iter().collect();
    let inline = |paper: &Paper| Attachment {
        document: paper.named(n),
        bytes: Payload::new(paper.bytes.clone()),
    };
    let delivery = DeliveryId::from_bytes([n; 16]);
    let referral = ReferralId::from_bytes([n; 16]);
    Ok(Source {
        delivery,
        wire_id: WireId::of(delivery),
        referral,
        reference: Reference::of(referral),
        sender_reference: content.sender_reference.clone(),
        content: Some(content),
        attachments: paper.map(inline).into_iter().collect(),
        ..sample::source(Kind::New)
    })
}

/// A message as BaRS has it.
pub(super) fn bundle(source: &Source) -> anyhow::Result<Value> {
    let rendered = Inspector::new()?.write(AdapterKind::Fhir, source)?;
    Ok(serde_json::from_slice(rendered.bytes.expose())?)
}

/// A gateway with a far side of every protocol.
pub(super) struct Everybody {
    pub(super) gateway: Gateway,
    pub(super) admin: Client,
    pub(super) hub: Hub,
    pub(super) hospital: Hospital,
    pub(super) therapy: Therapy,
    pub(super) camhs: MentalHealth,
    pub(super) peer: Peer,
    pub(super) files: Vec<SourceFile>,
    ground: tempfile::TempDir,
    place: Papers,
}

impl Everybody {
    pub(super) async fn new(engine: Engine) -> anyhow::Result<Self> {
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
                area("bars", 1, fhir).more,
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
        Ok(Self {
            admin: gateway.client("admin-LA882").await?,
            place: Papers::of(&gateway, "waymark:test:agency:EE123456")?,
            gateway,
            files,
            hub,
            hospital,
            therapy,
            camhs,
            peer,
            ground,
        })
    }

    /// Sends a referral, a child of its own by `n`, with a document where there is one.
    pub(super) async fn sends(
        &self,
        way: &str,
        n: u8,
        paper: Option<&Paper>,
    ) -> anyhow::Result<Said> {
        match way {
            "grpc" => self.by_grpc(n, paper).await,
            "hl7v2" => self.by_hl7v2(&hl7v2(n, paper)?).await,
            "fhir" => self.by_fhir(Self::fhir(n, paper)?.to_string()).await,
            "mesh" => {
                self.by_mesh(&mesh(n, paper)?.to_string());
                Ok(Said::Taken)
            }
            _ => self.by_file(n, paper).map(|()| Said::Taken),
        }
    }

    async fn by_grpc(&self, n: u8, paper: Option<&Paper>) -> anyhow::Result<Said> {
        let school = self.gateway.client("EE123456").await?;
        let mut referral = Child(u32::from(n)).referral(EVERYWHERE);
        referral["safeguardingFlags"] = json!([{ "system": "http://snomed.info/sct",
            "code": "836881000000105", "text": "stays at grandmother's flat since January" }]);
        referral["reasonableAdjustments"] = json!([{ "code": "requiresinformationineasyread" }]);
        referral["contacts"][0]["preferredFormat"] = "CONTACT_FORMAT_EASY_READ".into();
        let key = format!("matrix-{n}");
        if let Some(paper) = paper {
            let sha256 = hex::decode(&paper.sha256)?;
            let uploaded = school
                .upload(&key, &paper.media_type, &paper.bytes, &sha256)
                .await;
            match uploaded {
                Ok(uploaded) => referral["documents"] = json!([uploaded.document]),
                Err(status) => {
                    let fields = field_violations(&status).join(", ");
                    return Ok(Said::Refused(format!("{:?}: {fields}", status.code())));
                }
            }
        }
        school.submit(&key, &referral).await?;
        Ok(Said::Taken)
    }

    pub(super) async fn by_hl7v2(&self, text: &str) -> anyhow::Result<Said> {
        let listener = self
            .gateway
            .app()?
            .mllp
            .get("r1l")
            .context("the listener")?;
        let answer = match send(*listener, text).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Said::Refused(error.to_string())),
        };
        if answer.contains("\rMSA|AA|") {
            return Ok(Said::Taken);
        }
        Ok(Said::Refused(answer))
    }

    /// The message that a system of the Booking and Referral Standard sends.
    pub(super) fn fhir(n: u8, paper: Option<&Paper>) -> anyhow::Result<Value> {
        let mut source = message(n, paper)?;
        let large = paper.filter(|paper| paper.bytes.len() > FHIR_INLINE_BYTES);
        if large.is_some() {
            source.attachments.clear();
        }
        let mut bundle = bundle(&source)?;
        if let Some(paper) = large {
            let entries = bundle["entry"].as_array_mut().context("entries")?;
            let document = entries
                .iter_mut()
                .map(|entry| &mut entry["resource"])
                .find(|resource| resource["resourceType"] == "DocumentReference")
                .context("a document")?;
            let attachment = document["content"][0]["attachment"]
                .as_object_mut()
                .context("an attachment")?;
            attachment.remove("url");
            attachment.insert("data".to_owned(), STANDARD.encode(&paper.bytes).into());
        }
        Ok(bundle)
    }

    pub(super) async fn by_fhir(&self, bundle: String) -> anyhow::Result<Said> {
        self.by_fhir_of(&self.place, bundle).await
    }

    /// Posts a message as whoever the papers are of.
    pub(super) async fn by_fhir_of(&self, papers: &Papers, bundle: String) -> anyhow::Result<Said> {
        let path = papers.folder.path().join("matrix.json");
        std::fs::write(&path, bundle)?;
        let address = self.gateway.app()?.fhir.context("FHIR is served")?;
        let url = format!("https://{address}/$process-message");
        let (ca, cert, key) = (papers.path("ca"), papers.path("cert"), papers.path("key"));
        let file = shown(&path);
        let case = format!("x-correlation-id={CASE}");
        let args = [
            "POST", &url, "--ca", &ca, "--cert", &cert, "--key", &key, "--file", &file, "--bars",
            TARGET, "--header", &case,
        ];
        let said = run(SENDER, &args).await?.json()?;
        if said["status"] == 200 {
            return Ok(Said::Taken);
        }
        let (status, code, path) = refusal(&said);
        let words = text(&said["body"]["issue"][0], "diagnostics");
        Ok(Said::Refused(format!("{status} {code} {path} {words}")))
    }

    /// Puts a message into the gateway's mailbox; answers its id.
    pub(super) fn by_mesh(&self, event: &str) -> String {
        self.hub
            .put(THEIRS, OURS, WORKFLOW, &[], &[event.as_bytes()])
    }

    /// A FHIR server that has the school's certificate.
    pub(super) async fn server_of_the_school(&self) -> anyhow::Result<Peer> {
        let papers = &self.place;
        let (cert, key, ca) = (papers.path("cert"), papers.path("key"), papers.path("ca"));
        Peer::start(SERVER, &["--tls", &cert, &key, &ca]).await
    }

    pub(super) fn folder(&self, sub: &str) -> std::path::PathBuf {
        self.ground.path().join(FOLDER).join(sub)
    }

    fn by_file(&self, n: u8, paper: Option<&Paper>) -> anyhow::Result<()> {
        let data = serde_json::to_vec(&referral(u32::from(n))?)?;
        self.leaves(&format!("F{n}"), "new", &data, paper)
    }

    /// Leaves a message with its manifest in the inbox of the folder.
    pub(super) fn leaves(
        &self,
        id: &str,
        kind: &str,
        data: &[u8],
        paper: Option<&Paper>,
    ) -> anyhow::Result<()> {
        let mut files = vec![json!({"name": format!("{id}.json"), "role": "data",
            "size": data.len(), "media_type": "application/json", "sha256": digest(data)})];
        let inbox = self.folder("inbox");
        std::fs::create_dir_all(&inbox)?;
        if let Some(paper) = paper {
            let name = format!("{id}-report.pdf");
            std::fs::write(inbox.join(&name), &paper.bytes)?;
            files.push(
                json!({"name": name, "role": "document", "size": paper.bytes.len(),
                "media_type": paper.media_type, "sha256": paper.sha256}),
            );
        }
        let manifest = json!({"version": 1, "environment": "test", "id": id, "kind": kind,
            "created": "2026-03-02T10:00:00Z", "format": "canonical", "files": files});
        std::fs::write(inbox.join(format!("{id}.json")), data)?;
        // Whole files alone are looked at: the manifest comes last, and at once.
        let part = inbox.join(format!("{id}.part"));
        std::fs::write(&part, manifest.to_string())?;
        std::fs::rename(part, inbox.join(format!("{id}.manifest.json")))?;
        Ok(())
    }

    /// Every delivery there is.
    pub(super) async fn all(&self) -> anyhow::Result<Vec<v1::Delivery>> {
        let ask = v1::ListDeliveriesRequest {
            page_size: 200,
            ..v1::ListDeliveriesRequest::default()
        };
        let all = self.admin.admin().list_deliveries(ask).await?;
        Ok(all.into_inner().deliveries)
    }

    /// The deliveries of the referral that came last, once each of them is with its far side, and what lay in the
    /// mailbox.
    pub(super) async fn delivered(
        &self,
        known: &[String],
    ) -> anyhow::Result<(String, Vec<v1::Delivery>, Post)> {
        let new = wait_until("a referral is taken in", PATIENCE, || async {
            let found = self.all().await?;
            let mut new = found.iter().map(|d| &d.referral_id);
            Ok(new.find(|id| !known.contains(id)).cloned())
        })
        .await?;
        let team = self.gateway.client("SPEC1").await?;
        let post = team.fetch_one(&new).await?;
        let (id, deliveries) = wait_until("each far side has it", PATIENCE, || async {
            let found = self.all().await?;
            let of: Vec<_> = found
                .into_iter()
                .filter(|d| d.referral_id == new && d.kind() == v1::MessageKind::New)
                .collect();
            let there = |d: &v1::Delivery| {
                d.endpoint_id == "spec1-mailbox" || d.evidence() != EvidenceGrade::None
            };
            Ok((of.len() == ENDPOINTS.len() && of.iter().all(there)).then_some((new.clone(), of)))
        })
        .await?;
        Ok((id, deliveries, post))
    }
}

/// The message that the hospital's system sends.
pub(super) fn hl7v2(n: u8, paper: Option<&Paper>) -> anyhow::Result<String> {
    er7(&message(n, paper)?)
}

/// A message as HL7 v2 has it.
pub(super) fn er7(source: &Source) -> anyhow::Result<String> {
    Ok(outward::render(source, &strict::hospital(Version::V25))?)
}

/// A later message of a kind about the referral of `n`, with an id of its own and, where it amends, words of its own.
pub(super) fn later(n: u8, kind: Kind) -> anyhow::Result<Source> {
    let first = message(n, None)?;
    let delivery =
        DeliveryId::from_bytes([n, kind as u8, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    let mut content = first.content.clone();
    if let Some(content) = content.as_mut() {
        content.narrative = Some(MORE_WORDS.into());
    }
    Ok(Source {
        delivery,
        wire_id: WireId::of(delivery),
        referral: first.referral,
        reference: first.reference,
        sender_reference: first.sender_reference,
        content,
        ..sample::source(kind)
    })
}

/// The event that another gateway sends by MESH.
pub(super) fn mesh(n: u8, paper: Option<&Paper>) -> anyhow::Result<Value> {
    let mut event = json!({"type": "referral.new", "environment": "test",
        "data": {"referral": referral(u32::from(n))?}});
    if let Some(paper) = paper {
        event["documents"] = json!([{"media_type": paper.media_type, "sha256": paper.sha256,
            "title": "Report", "kind": "report", "content": STANDARD.encode(&paper.bytes)}]);
    }
    Ok(event)
}
