//! Documents through every way in and every way out: what arrives hashes to what was declared, inline where the protocol
//! carries it, else named on the wire and fetched by its name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use waymark_tests::actors::mesh::{Held, THEIRS};
use waymark_tests::gateway::{Client, Post};

use super::everybody::digest;
use super::*;

waymark_tests::both_engines! {
    a_document_arrives_with_its_digest_whichever_way_in_and_out,
    a_document_too_large_for_inline_goes_by_reference_and_is_fetched_by_it,
}

/// More than any protocol carries inline.
const LARGE_BYTES: usize = 10 * 1024 * 1024 + 1;

/// A document as a wire names it.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    id: String,
    sha256: String,
    size: u64,
    media_type: String,
}

/// What a far side was sent.
#[derive(Default)]
pub(super) struct Arrived {
    /// Media type and bytes of what lay in the message or beside it.
    pub(super) inline: Vec<(String, Vec<u8>)>,
    /// What the message names.
    named: Vec<Named>,
}

/// The documents of a canonical referral.
fn canonical(referral: &Value) -> Vec<Named> {
    let listed = referral["documents"].as_array();
    let named = |document: &Value| Named {
        id: text(document, "id").to_owned(),
        sha256: text(document, "sha256").to_owned(),
        size: document["size_bytes"].as_u64().unwrap_or_default(),
        media_type: text(document, "media_type").to_owned(),
    };
    listed.into_iter().flatten().map(named).collect()
}

fn by_grpc(dispatch: &v1::Dispatch) -> Arrived {
    let documents = dispatch.referral.iter().flat_map(|r| &r.documents);
    let named = documents.map(|document| Named {
        id: document.document_id.clone(),
        sha256: hex::encode(&document.sha256),
        size: document.size_bytes,
        media_type: document.media_type.clone(),
    });
    Arrived {
        inline: Vec::new(),
        named: named.collect(),
    }
}

/// The gateway's own JSON: a webhook's body, a MESH message.
fn by_json(bytes: &[u8]) -> anyhow::Result<Arrived> {
    let event: Value = serde_json::from_slice(bytes)?;
    let mut inline = Vec::new();
    for document in event["documents"].as_array().into_iter().flatten() {
        let content = STANDARD.decode(text(document, "content"))?;
        assert_eq!(text(document, "sha256"), digest(&content));
        inline.push((text(document, "media_type").to_owned(), content));
    }
    Ok(Arrived {
        inline,
        named: canonical(&event["data"]["referral"]),
    })
}

fn by_hl7v2(message: &str) -> anyhow::Result<Arrived> {
    let mut arrived = Arrived::default();
    for segment in message.split('\r').filter(|s| s.starts_with("OBX|")) {
        let field = |n: usize| segment.split('|').nth(n).unwrap_or_default();
        let part = |n: usize, m: usize| field(n).split('^').nth(m - 1).unwrap_or_default();
        match field(2) {
            "ED" => {
                assert_eq!(
                    (part(5, 2), part(5, 3), part(5, 4)),
                    ("AP", "pdf", "Base64")
                );
                let content = STANDARD.decode(part(5, 5))?;
                assert_eq!(part(3, 4), digest(&content));
                arrived.inline.push(("application/pdf".to_owned(), content));
            }
            "RP" => {
                assert_eq!((part(5, 3), part(5, 4)), ("AP", "pdf"));
                // Its size stands in the note that names it.
                let size = format!("size_bytes:={LARGE_BYTES}");
                assert!(message.contains(&size), "a note says how large it is");
                arrived.named.push(Named {
                    id: part(5, 1).to_owned(),
                    sha256: part(3, 4).to_owned(),
                    size: u64::try_from(LARGE_BYTES)?,
                    media_type: "application/pdf".to_owned(),
                });
            }
            _ => {}
        }
    }
    Ok(arrived)
}

fn by_fhir(bytes: &[u8]) -> anyhow::Result<Arrived> {
    let bundle: Value = serde_json::from_slice(bytes)?;
    let mut arrived = Arrived::default();
    let entries = bundle["entry"].as_array().context("entries")?;
    let resources = entries.iter().map(|entry| &entry["resource"]);
    for document in resources.filter(|r| r["resourceType"] == "DocumentReference") {
        let attachment = &document["content"][0]["attachment"];
        let media_type = text(attachment, "contentType").to_owned();
        let sha256 = text(&attachment["extension"][0], "valueString").to_owned();
        if let Some(data) = attachment["data"].as_str() {
            let content = STANDARD.decode(data)?;
            assert_eq!(sha256, digest(&content));
            arrived.inline.push((media_type, content));
            continue;
        }
        let id = text(&document["identifier"][0], "value").to_owned();
        assert_eq!(text(attachment, "url"), format!("urn:uuid:{id}"));
        arrived.named.push(Named {
            id,
            sha256,
            size: attachment["size"].as_u64().unwrap_or_default(),
            media_type,
        });
    }
    Ok(arrived)
}

impl Everybody {
    /// What lies in the folder's outbox under a message's id.
    pub(super) fn in_outbox(&self, wire: &str) -> anyhow::Result<Arrived> {
        let outbox = self.folder("outbox");
        let read = |name: &str| std::fs::read(outbox.join(name)).context(name.to_owned());
        let manifest: Value = serde_json::from_slice(&read(&format!("{wire}.manifest.json"))?)?;
        let mut arrived = Arrived::default();
        for file in manifest["files"].as_array().context("files")? {
            let content = read(text(file, "name"))?;
            assert_eq!(text(file, "sha256"), digest(&content));
            if file["role"] == "document" {
                let media_type = text(file, "media_type").to_owned();
                arrived.inline.push((media_type, content));
            } else {
                let event: Value = serde_json::from_slice(&content)?;
                arrived.named = canonical(&event["data"]["referral"]);
            }
        }
        Ok(arrived)
    }

    /// What the far side of an endpoint was sent, as it has it.
    fn arrived(&self, delivery: &v1::Delivery, post: &Post) -> anyhow::Result<Arrived> {
        let wire = delivery.wire_id.as_str();
        match delivery.endpoint_id.as_str() {
            "cam01-grpc" => {
                let calls = self.camhs.calls();
                let call = calls.iter().find(|call| call.wire_id == wire);
                let body = &call.context("a call")?.body;
                Ok(by_grpc(&v1::Dispatch::decode(body.as_slice())?))
            }
            "spec1-mailbox" => Ok(by_grpc(&post.dispatch)),
            "therapy-webhook" => {
                let hooks = self.therapy.hooks();
                by_json(&hooks.iter().find(|h| h.id == wire).context("a hook")?.bytes)
            }
            "comm1-mesh" => {
                let held = self.hub.held();
                let named = |held: &Held| {
                    held.to == THEIRS
                        && held.headers.get("mex-localid").is_some_and(|id| id == wire)
                };
                let held = held.into_iter().find(named).context("a MESH message")?;
                let chunks: Vec<u8> = held.chunks.into_iter().flatten().flatten().collect();
                by_json(&chunks)
            }
            "r1l-mllp" => {
                let frames = self.hospital.applied();
                let frame = frames.iter().find(|frame| frame.control_id == wire);
                by_hl7v2(&frame.context("a frame")?.text)
            }
            "fhr-fhir" => {
                for record in self.peer.records()? {
                    let body = bytes(&record, "body_b64")?;
                    if String::from_utf8_lossy(&body).contains(wire) {
                        assert_eq!(record["faults"], json!([]));
                        return by_fhir(&body);
                    }
                }
                anyhow::bail!("the FHIR server was not sent it")
            }
            _ => self.in_outbox(wire),
        }
    }

    /// The agency of an endpoint, as a caller of the gateway.
    async fn agency(&self, endpoint: &str) -> anyhow::Result<Client> {
        let agency = match endpoint {
            "cam01-grpc" => "CAM01",
            "comm1-mesh" => "COMM1",
            "fhr-fhir" => "FHR01",
            "r1l-mllp" => "R1L",
            "sens1-files" => "SENS1",
            "spec1-mailbox" => "SPEC1",
            _ => "THER1",
        };
        let issued = self
            .gateway
            .issue(&format!("waymark:test:agency:{agency}"))?;
        let (cert, key) = (issued.cert_pem.as_bytes(), issued.key_pem.as_bytes());
        self.gateway.client_with(cert, key).await
    }
}

async fn a_document_arrives_with_its_digest_whichever_way_in_and_out(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let mut known = Vec::new();
    for (n, way) in (240..).zip(WAYS) {
        let paper = Paper::pdf(n, 4_096);
        everybody.sends(way, n, Some(&paper)).await?.taken()?;
        let (id, deliveries, post) = everybody
            .delivered(&known)
            .await
            .with_context(|| format!("by {way}"))?;
        known.push(id);
        assert_eq!(deliveries.len(), ENDPOINTS.len(), "by {way}");
        // As it is stored.
        let team = everybody.agency("spec1-mailbox").await?;
        let [named] = by_grpc(&post.dispatch).named.try_into().map_err(|named| {
            anyhow::anyhow!("by {way}: one document is named, and not {named:?}")
        })?;
        let (described, content) = team.download(&named.id).await?;
        assert_eq!(hex::encode(&described.sha256), paper.sha256, "by {way}");
        assert_eq!(content, paper.bytes, "by {way}");
        for delivery in &deliveries {
            let to = &delivery.endpoint_id;
            let arrived = everybody.arrived(delivery, &post)?;
            if ["cam01-grpc", "spec1-mailbox"].contains(&to.as_str()) {
                assert_eq!(arrived.named, [named_as(&paper, &named.id)]);
                let (_, content) = everybody.agency(to).await?.download(&named.id).await?;
                assert_eq!(digest(&content), paper.sha256, "by {way} to {to}");
                continue;
            }
            let inline: Vec<(&str, String)> = arrived
                .inline
                .iter()
                .map(|(media_type, bytes)| (media_type.as_str(), digest(bytes)))
                .collect();
            let sent = (paper.media_type.as_str(), paper.sha256.clone());
            assert_eq!(inline, [sent], "by {way} to {to}");
        }
    }
    assert!(everybody.admin.conservation().await?.balanced);
    Ok(())
}

/// How a wire must name a document.
fn named_as(paper: &Paper, id: &str) -> Named {
    Named {
        id: id.to_owned(),
        sha256: paper.sha256.clone(),
        size: u64::try_from(paper.bytes.len()).unwrap_or(u64::MAX),
        media_type: paper.media_type.clone(),
    }
}

async fn a_document_too_large_for_inline_goes_by_reference_and_is_fetched_by_it(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let paper = Paper::pdf(240, LARGE_BYTES);
    everybody.sends("grpc", 240, Some(&paper)).await?.taken()?;
    let (_, deliveries, post) = everybody.delivered(&[]).await?;
    assert_eq!(deliveries.len(), ENDPOINTS.len());
    for delivery in &deliveries {
        let to = &delivery.endpoint_id;
        let arrived = everybody.arrived(delivery, &post)?;
        assert!(arrived.inline.is_empty(), "nothing inline to {to}");
        let [named] = arrived
            .named
            .try_into()
            .map_err(|named| anyhow::anyhow!("to {to}: one is named, and not {named:?}"))?;
        assert_eq!(named, named_as(&paper, &named.id), "to {to}");
        let (described, content) = everybody.agency(to).await?.download(&named.id).await?;
        assert_eq!(hex::encode(&described.sha256), paper.sha256, "to {to}");
        assert_eq!(digest(&content), paper.sha256, "to {to}");
        // Who was not sent the referral does not learn that there is such a document.
        let stranger = everybody.gateway.client("SC882").await?;
        let refused = stranger.download(&named.id).await;
        assert_eq!(refused.expect_err("refused").code(), tonic::Code::NotFound);
    }
    Ok(())
}
