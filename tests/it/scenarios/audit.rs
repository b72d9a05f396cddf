//! Scenario 15: an auditor proves what happened with the exported tree and a receipt alone.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use std::path::{Path, PathBuf};

use waymark_audit::verify::{Exhibit, Options, verify_tree};
use waymark_audit::{Report, Verdict};
use waymark_core::audit::{EntryKind, LogEntry};
use waymark_proto::v1;
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::Hospital;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway};

waymark_tests::both_engines! {
    an_auditor_proves_a_referral_s_events_complete_and_finds_any_flipped_byte,
    every_checkpoint_is_given_page_by_page_with_when_it_was_signed,
    who_reads_the_log_is_in_the_log_and_reading_that_adds_nothing,
}

/// Bytes flipped in each file of the tree.
const FLIPS_PER_FILE: usize = 7;

fn files(folder: &Path, out: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, out)?;
        } else {
            out.push(path);
        }
    }
    out.sort();
    Ok(())
}

async fn an_auditor_proves_a_referral_s_events_complete_and_finds_any_flipped_byte(
    engine: Engine,
) -> anyhow::Result<()> {
    let hospital = Hospital::open()?;
    let gateway = Gateway::start(engine, &Area::hospital(hospital.port())).await?;
    let [school, provider] = gateway.clients(["EE123456", "R1L"]).await?;
    for n in 150..156 {
        school
            .submit(&format!("other-{n}"), &Child(n).referral("adhd-assessment"))
            .await?;
    }
    let request = v1::SubmitReferralRequest {
        request_id: "named".to_owned(),
        referral: Some(serde_json::from_value(
            Child(15).referral("adhd-assessment"),
        )?),
        want_proof: true,
    };
    let receipt = school
        .referrals()
        .submit_referral(request)
        .await?
        .into_inner()
        .receipt
        .expect("a receipt");
    assert!(
        !receipt.tlog_proof.is_empty(),
        "a proof was asked for and came"
    );
    let id = &receipt.referral_id;
    school.leg_shows(id, DeliveryState::Done).await?;
    provider.status(id, 1, v1::LegState::Accepted).await?;
    school.cancel("no-more", id).await?;

    let folder = tempfile::tempdir()?;
    let tree = gateway.export(folder.path()).await?;
    let options = Options {
        keys: vec![gateway.verifier()?],
        receipts: vec![Exhibit {
            name: "the receipt".to_owned(),
            text: String::from_utf8(receipt.tlog_proof.clone())?,
        }],
        ..Options::default()
    };
    let report = verify_tree(&tree, &options);
    assert_eq!(report.verdict, Verdict::Ok, "{:#?}", report.findings);
    let stream = report.stream.expect("the receipt names its stream");
    assert!(stream.complete_and_unaltered);
    assert_eq!(
        hex::decode(stream.stream.replace('-', ""))?,
        receipt.stream_id
    );
    let expected = gateway.stream(&receipt.stream_id).await?;
    // The cancel goes on being delivered after the export: the log may have grown since.
    let exported = stream.entries.len();
    assert!(exported <= expected.len(), "{exported} of {expected:?}");
    assert!(
        exported >= 5,
        "accepted, opened, closed, status, cancelled: {expected:?}"
    );

    // The receipt's opening opens the commitment of its entry to exactly the content that was sent.
    let opening = receipt.openings.first().expect("the payload's opening");
    let entry = LogEntry::decode(&receipt.entry)?;
    let salt: [u8; 32] = opening.salt.as_slice().try_into()?;
    let made = waymark_core::audit::Commitment::to(
        waymark_core::audit::CommitmentTag::Payload,
        &salt,
        &opening.content,
    );
    assert!(entry.commitments.contains(&made));

    flips_are_found(&tree, &options)
}

async fn every_checkpoint_is_given_page_by_page_with_when_it_was_signed(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, auditor] = gateway.clients(["EE123456", "auditor-LA882"]).await?;
    for n in 160..165 {
        let content = Child(n).referral("specialist-teaching");
        school.submit(&format!("signed-{n}"), &content).await?;
        gateway.sequenced().await?;
    }
    let stored = gateway.store()?.checkpoints(0, 1_000).await?;
    assert!(stored.len() >= 5, "a round was signed for each");
    let mut request = v1::ListCheckpointsRequest {
        page_size: 2,
        ..v1::ListCheckpointsRequest::default()
    };
    let mut given = Vec::new();
    loop {
        let page = auditor.audit().list_checkpoints(request.clone()).await?;
        let page = page.into_inner();
        given.extend(page.checkpoints);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(given.len(), stored.len());
    for (given, stored) in given.iter().zip(&stored) {
        assert_eq!(given.note, stored.note.as_bytes());
        assert_eq!(given.tree_size, stored.size);
        let at = given.signed_at.as_ref().expect("when it was signed");
        let ms = at.seconds * 1_000 + i64::from(at.nanos / 1_000_000);
        assert_eq!(ms, stored.at.as_ms());
    }
    let newest = auditor
        .audit()
        .get_checkpoint(v1::GetCheckpointRequest {})
        .await?;
    let newest = newest.into_inner().checkpoint.expect("the newest");
    assert!(newest.signed_at.is_some());
    let later = v1::ListCheckpointsRequest {
        after_size: stored[1].size,
        ..v1::ListCheckpointsRequest::default()
    };
    let later = auditor.audit().list_checkpoints(later).await?.into_inner();
    assert_eq!(later.checkpoints.first(), given.get(2));

    // The release that the deployment began with names its entry.
    let release = auditor
        .directory()
        .get_release(v1::GetReleaseRequest::default())
        .await?;
    let release = release.into_inner().release.expect("the release");
    let mut files = Area::default().files();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let mut input = Vec::new();
    for part in files.iter().flat_map(|file| [&file.path, &file.text]) {
        input.extend_from_slice(&u64::try_from(part.len())?.to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &input);
    assert_eq!(release.sha256, digest.as_ref());
    let event = release.event_id;
    let entry = v1::GetEntryRequest {
        subject: Some(v1::get_entry_request::Subject::EventId(event)),
    };
    let entry = auditor.audit().get_entry(entry).await?.into_inner().entry;
    let entry = LogEntry::decode(&entry.expect("the entry").entry)?;
    assert_eq!(entry.fact("release"), Some("1"));
    Ok(())
}

fn flips_are_found(tree: &Path, options: &Options) -> anyhow::Result<()> {
    let mut all = Vec::new();
    files(tree, &mut all)?;
    let mut flipped = 0;
    for path in all {
        let name = path.strip_prefix(tree)?.display().to_string();
        let bytes = std::fs::read(&path)?;
        // Old checkpoints are many and alike: some of them stand for all.
        if name.starts_with("checkpoints/") && flipped > 60 {
            continue;
        }
        for step in 0..FLIPS_PER_FILE {
            let at = bytes.len() * step / FLIPS_PER_FILE + usize::from(step % 2 == 1);
            let Some(at) = Some(at).filter(|at| *at < bytes.len()) else {
                continue;
            };
            let mut broken = bytes.clone();
            broken[at] ^= 1 << (step % 8);
            std::fs::write(&path, &broken)?;
            let report: Report = verify_tree(tree, options);
            assert_ne!(
                report.verdict,
                Verdict::Ok,
                "byte {at} of {name} was flipped unseen"
            );
            let named = report.findings.iter().any(|f| f.file == name);
            assert!(
                named,
                "byte {at} of {name} is not located: {:#?}",
                report.findings
            );
            flipped += 1;
        }
        std::fs::write(&path, &bytes)?;
    }
    assert!(flipped >= 20, "only {flipped} flips");
    assert_eq!(
        verify_tree(tree, options).verdict,
        Verdict::Ok,
        "what was put back holds again"
    );
    Ok(())
}

async fn who_reads_the_log_is_in_the_log_and_reading_that_adds_nothing(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, auditor] = gateway.clients(["EE123456", "auditor-LA882"]).await?;
    let content = Child(170).referral("specialist-teaching");
    school.submit("read", &content).await?;
    gateway.sequenced().await?;
    let from = |start_index| v1::ListEntriesRequest {
        page_size: 200,
        start_index,
        ..v1::ListEntriesRequest::default()
    };
    auditor.audit().list_entries(from(0)).await?;
    gateway.sequenced().await?;
    let log = gateway.entries().await?;
    let read = LogEntry::decode(log.last().expect("an entry"))?;
    assert_eq!(read.kind, EntryKind::AdminRead);
    assert_eq!(read.fact("action"), Some("read_entries"));
    assert_eq!(
        read.fact("count"),
        Some((log.len() - 1).to_string().as_str())
    );
    // From there on nothing is to be read but that the log was read.
    let newest = u64::try_from(log.len())? - 1;
    let page = auditor.audit().list_entries(from(newest)).await?;
    assert_eq!(page.into_inner().entries.len(), 1);
    gateway.sequenced().await?;
    assert_eq!(gateway.entries().await?.len(), log.len());
    Ok(())
}
