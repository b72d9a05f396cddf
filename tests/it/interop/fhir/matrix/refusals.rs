//! A document that is not what its sender says, of a type that is not taken, or too large is refused by name, whichever
//! way it came, and nothing of its message is kept; at its limit it is taken.

use waymark_adapters::fhir::server::BODY_BYTES_MAX;
use waymark_adapters::hl7v2::message::MESSAGE_BYTES_MAX;
use waymark_core::time::Timestamp;

use super::everybody::{Said, hl7v2, mesh};
use super::*;

waymark_tests::both_engines! {
    a_document_that_is_not_as_declared_is_refused_by_name_and_nothing_of_it_is_kept,
    a_document_is_taken_at_its_limit_and_refused_above_it_whichever_way_it_comes,
}

/// Bytes of one document, by gRPC and in a folder.
const DOCUMENT_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Bytes of a message by MESH.
const MESH_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Everybody {
    /// Waits for what says why a message that was sent in silence is not taken.
    async fn says(&self, way: &str, n: u8) -> anyhow::Result<String> {
        wait_until("it says why", PATIENCE, || async {
            if way == "file" {
                let note = self.folder("failed").join(format!("F{n}.error.json"));
                return Ok(std::fs::read_to_string(note).ok());
            }
            let alarms = self.admin.alarms("not_collected").await?;
            Ok(alarms.into_iter().map(|alarm| alarm.message).next())
        })
        .await
    }

    /// The refusal of a message, wherever it is told.
    async fn refusal(&self, way: &str, n: u8, said: Said) -> anyhow::Result<String> {
        match said {
            Said::Refused(why) => Ok(why),
            Said::Taken if ["mesh", "file"].contains(&way) => self.says(way, n).await,
            Said::Taken => anyhow::bail!("by {way} it was taken"),
        }
    }

    /// How much the gateway holds: referrals' deliveries, and documents that no referral took.
    pub(super) async fn holds(&self) -> anyhow::Result<(usize, usize)> {
        let all = self.all().await?;
        let ever = Timestamp::from_ms(i64::MAX / 2);
        let untaken = self.gateway.store()?.untaken_documents(ever, 100).await?;
        Ok((all.len(), untaken.len()))
    }
}

/// What each way says of a document whose digest is not its bytes', and of one whose type is not taken.
const REFUSALS: [(&str, [&[&str]; 2]); 5] = [
    (
        "grpc",
        [&["DataLoss", "sha256"], &["InvalidArgument", "media_type"]],
    ),
    (
        "hl7v2",
        [
            &["\rMSA|AE|", "ERR|", "OBX^1^5", "does not match the bytes"],
            &["\rMSA|AE|", "OBX^1^5", "is of a type that is not taken"],
        ],
    ),
    (
        "fhir",
        [
            &[
                "422 REC_UNPROCESSABLE_ENTITY DocumentReference",
                "does not match the bytes",
            ],
            &[
                "422 REC_UNPROCESSABLE_ENTITY DocumentReference",
                "is one of application/pdf",
            ],
        ],
    ),
    (
        "mesh",
        [
            &["documents[0].sha256", "does not match the bytes"],
            &["documents[0].media_type", "is one of application/pdf"],
        ],
    ),
    (
        "file",
        [
            &["INCOMPLETE", "manifest.files[1].sha256"],
            &["INVALID", "documents[0].media_type"],
        ],
    ),
];

async fn a_document_that_is_not_as_declared_is_refused_by_name_and_nothing_of_it_is_kept(
    engine: Engine,
) -> anyhow::Result<()> {
    for fault in 0..2_u8 {
        let everybody = Everybody::new(engine).await?;
        for (n, (way, words)) in (240..).zip(REFUSALS) {
            let mut paper = Paper::pdf(n, 4_096);
            if fault == 0 {
                paper.sha256 = "ab".repeat(32);
            } else {
                "video/mp4".clone_into(&mut paper.media_type);
            }
            let said = match (way, fault) {
                // Our own writer has no name for the type: its reader must refuse what another's has.
                ("hl7v2", 1) => {
                    let text = hl7v2(n, Some(&Paper::pdf(n, 4_096)))?;
                    let text = text.replace("^AP^pdf^", "^VIDEO^mp4^");
                    everybody.by_hl7v2(&text).await?
                }
                _ => everybody.sends(way, n, Some(&paper)).await?,
            };
            let why = everybody.refusal(way, n, said).await?;
            for word in words[usize::from(fault)] {
                assert!(why.contains(word), "by {way}, {word:?}: {why}");
            }
            assert_eq!(everybody.holds().await?, (0, 0), "by {way}: {why}");
        }
    }
    Ok(())
}

/// A message of exactly so many bytes: spaces, or letters of a segment of its sender's own, fill it.
fn filled(mut text: String, bytes: usize) -> anyhow::Result<String> {
    let is_hl7 = text.starts_with("MSH");
    if is_hl7 {
        text.push_str("ZPD|1|");
    }
    let ending = usize::from(is_hl7);
    let room = bytes.checked_sub(text.len() + ending);
    let room = room.context("the message is larger than that")?;
    anyhow::ensure!(
        room < 4_000,
        "{room} bytes are left: choose a larger document"
    );
    text.push_str(&if is_hl7 { "X" } else { " " }.repeat(room));
    text.push_str(if is_hl7 { "\r" } else { "" });
    Ok(text)
}

/// Sends a message at, or one byte above, what its way takes.
async fn at_limit(everybody: &Everybody, way: &str, n: u8, above: usize) -> anyhow::Result<Said> {
    // Base64 makes four bytes of three; what is left out is for the referral.
    let within = |limit: usize, rest: usize| (limit - rest) / 4 * 3;
    match way {
        "hl7v2" => {
            let size = within(
                MESSAGE_BYTES_MAX,
                hl7v2(n, Some(&Paper::pdf(n, 3)))?.len() + 100,
            );
            let text = hl7v2(n, Some(&Paper::pdf(n, size)))?;
            everybody
                .by_hl7v2(&filled(text, MESSAGE_BYTES_MAX + above)?)
                .await
        }
        "fhir" => {
            let small = Everybody::fhir(n, Some(&Paper::pdf(n, 3)))?.to_string();
            let size = within(BODY_BYTES_MAX, small.len() + 100);
            let text = Everybody::fhir(n, Some(&Paper::pdf(n, size)))?.to_string();
            everybody
                .by_fhir(filled(text, BODY_BYTES_MAX + above)?)
                .await
        }
        "mesh" => {
            let small = mesh(n, Some(&Paper::pdf(n, 3)))?.to_string();
            let size = within(MESH_BYTES_MAX, small.len() + 100);
            let text = mesh(n, Some(&Paper::pdf(n, size)))?.to_string();
            everybody.by_mesh(&filled(text, MESH_BYTES_MAX + above)?);
            Ok(Said::Taken)
        }
        _ => {
            let paper = Paper::pdf(n, DOCUMENT_BYTES_MAX + above);
            everybody.sends(way, n, Some(&paper)).await
        }
    }
}

async fn a_document_is_taken_at_its_limit_and_refused_above_it_whichever_way_it_comes(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let team = everybody.gateway.client("SPEC1").await?;
    let mut known = Vec::new();
    for (n, (way, why)) in (240..).step_by(2).zip([
        ("grpc", &["InvalidArgument", "size_bytes"][..]),
        // A frame without an end is no message: nobody can be answered.
        ("hl7v2", &["closed without an answer"][..]),
        (
            "fhir",
            &["413 REC_UNPROCESSABLE_ENTITY", "longer than is taken"][..],
        ),
        ("mesh", &["data: is longer than"][..]),
        (
            "file",
            &["INVALID", "manifest.files[1].size", "26214400"][..],
        ),
    ]) {
        at_limit(&everybody, way, n, 0).await?.taken()?;
        let (id, _, post) = everybody
            .delivered(&known)
            .await
            .with_context(|| format!("by {way}"))?;
        known.push(id);
        let documents = post.dispatch.referral.context("its referral")?.documents;
        assert_eq!(documents.len(), 1, "by {way}");
        let (described, content) = team.download(&documents[0].document_id).await?;
        let sha256 = everybody::digest(&content);
        assert_eq!(hex::encode(&described.sha256), sha256, "by {way}");

        let held = everybody.holds().await?;
        let said = at_limit(&everybody, way, n + 1, 1).await?;
        let refused = everybody.refusal(way, n + 1, said).await?;
        for word in why {
            assert!(refused.contains(word), "by {way}, {word:?}: {refused}");
        }
        assert_eq!(everybody.holds().await?, held, "by {way}: {refused}");
    }
    Ok(())
}
