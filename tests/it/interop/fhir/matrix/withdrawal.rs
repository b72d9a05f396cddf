//! A withdrawal of consent by a way that carries files and messages alone.

use super::everybody::message;
use super::*;

waymark_tests::both_engines! {
    a_withdrawal_in_part_by_file_or_mesh_is_told_to_whom_it_covered_and_to_nobody_else,
}

async fn a_withdrawal_in_part_by_file_or_mesh_is_told_to_whom_it_covered_and_to_nobody_else(
    engine: Engine,
) -> anyhow::Result<()> {
    let everybody = Everybody::new(engine).await?;
    let team = everybody.gateway.client("SPEC1").await?;
    let mut known = Vec::new();
    for (n, way) in [(240, "mesh"), (241, "file")] {
        let paper = Paper::pdf(n, 4_096);
        everybody.sends(way, n, Some(&paper)).await?.taken()?;
        let (id, deliveries, post) = everybody.delivered(&known).await?;
        team.acknowledge(&post).await?;
        // The folder's next message waits for the receipt of the one before.
        let first = deliveries.iter().find(|d| d.endpoint_id == "sens1-files");
        let first = &first.context("a delivery to the folder")?.wire_id;
        let receipt = everybody
            .folder("receipts")
            .join(format!("{first}.receipt"));
        std::fs::write(receipt, "")?;
        let own = message(n, None)?.sender_reference;
        let mut said = json!({"sender_reference": own, "withdrawal": {"scopes": ["share_education"],
            "by": "Marisol Quillfeather", "role": "parent_with_pr", "date": "2026-03-02"}});
        if way == "file" {
            let data = said.to_string();
            everybody.leaves(&format!("W{n}"), "withdraw", data.as_bytes(), None)?;
            // A day that has not come withdraws nothing.
            said["withdrawal"]["date"] = json!("2999-01-01");
            everybody.leaves("LATER", "withdraw", said.to_string().as_bytes(), None)?;
        } else {
            let event = json!({"type": "referral.consent_withdrawn", "environment": "test",
                "data": said});
            everybody.by_mesh(&event.to_string());
        }
        let told = team
            .fetch_one(&id)
            .await
            .with_context(|| format!("by {way}"))?;
        assert_eq!(
            told.dispatch.kind(),
            v1::MessageKind::Withdrawal,
            "by {way}"
        );
        let withdrawal = told.dispatch.withdrawal.context("what was withdrawn")?;
        let scopes: Vec<v1::ConsentScope> = withdrawal.scopes().collect();
        assert_eq!(scopes, [v1::ConsentScope::ShareEducation]);
        assert_eq!(withdrawal.withdrawn_by, "Marisol Quillfeather");
        // Those whom another scope covers go on.
        let all = everybody.admin.deliveries(&id).await?;
        let mut to: Vec<&str> = all
            .iter()
            .filter(|d| d.kind() == v1::MessageKind::Withdrawal)
            .map(|d| d.endpoint_id.as_str())
            .collect();
        to.sort_unstable();
        assert_eq!(to, ["sens1-files", "spec1-mailbox"], "by {way}");
        // Whoever is told that consent is withdrawn is not sent the child's documents once more.
        let written = all
            .iter()
            .find(|d| d.endpoint_id == "sens1-files" && d.kind() == v1::MessageKind::Withdrawal);
        let wire = &written.context("a withdrawal in the folder")?.wire_id;
        let manifest = everybody
            .folder("outbox")
            .join(format!("{wire}.manifest.json"));
        wait_until("it is written", PATIENCE, || async {
            Ok(manifest.exists().then_some(()))
        })
        .await?;
        assert!(everybody.in_outbox(wire)?.inline.is_empty(), "by {way}");
        known.push(id);
    }
    let note = everybody.folder("failed").join("LATER.error.json");
    let note = wait_until("it is set aside", PATIENCE, || async {
        Ok(std::fs::read_to_string(&note).ok())
    })
    .await?;
    assert!(note.contains("withdrawal.date"), "{note}");
    Ok(())
}
