//! Receipts as files: the proof, the entry that it proves, and what opens the entry's commitments.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use tonic::transport::Channel;
use waymark_core::audit::CommitmentTag;
use waymark_proto::v1;
use waymark_proto::v1::audit_service_client::AuditServiceClient;
use waymark_proto::v1::get_receipt_request::Subject;
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{TlogProof, leaf_hash};

use super::failure::Refusal;

/// How often a proof is asked for that was not ready; the gateway waits up to 2 seconds each time.
const PROOF_TRIES_MAX: u32 = 5;

/// A receipt that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Saved {
    /// The proof.
    pub(super) proof: PathBuf,
    /// Index of the entry in the log.
    pub(super) index: u64,
    /// Whether the proof was verified here: with the log's key of the client profile.
    pub(super) verified: bool,
}

/// Fetches a receipt with its proof.
///
/// # Errors
/// When the gateway refuses, or the log did not take the entry in time.
pub(super) async fn fetch(channel: Channel, subject: Subject) -> anyhow::Result<v1::Receipt> {
    let mut client = AuditServiceClient::new(channel);
    for _ in 0..PROOF_TRIES_MAX {
        let ask = v1::GetReceiptRequest {
            subject: Some(subject.clone()),
            want_proof: true,
        };
        let answer = client.get_receipt(ask).await.map_err(Refusal::from)?;
        let receipt = answer
            .into_inner()
            .receipt
            .context("the gateway answered without a receipt")?;
        if !receipt.tlog_proof.is_empty() {
            return Ok(receipt);
        }
    }
    bail!("the log has not taken the entry yet: ask again with `waymark audit receipt`")
}

/// Verifies a receipt as far as the log's key is known, then writes it: `EVENT.tlog-proof`, `EVENT.entry`, and
/// `EVENT.N.opening` for each opening, N being its tag (32 bytes of salt, then the bytes committed to).
///
/// # Errors
/// When the proof does not hold, or a file cannot be written. Nothing is written of a receipt that does not hold.
pub(super) fn save(
    folder: &Path,
    receipt: &v1::Receipt,
    key: Option<&VerifierKey>,
) -> anyhow::Result<Saved> {
    let event: waymark_core::id::EventId = receipt
        .event_id
        .parse()
        .context("the receipt names no event")?;
    let index = check(receipt, key)?;
    let openings = receipt
        .openings
        .iter()
        .map(opening)
        .collect::<anyhow::Result<Vec<_>>>()?;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let write = |name: String, bytes: &[u8]| -> anyhow::Result<PathBuf> {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    write(format!("{event}.entry"), &receipt.entry)?;
    for (tag, bytes) in openings {
        write(format!("{event}.{}.opening", tag.number()), &bytes)?;
    }
    let proof = write(format!("{event}.tlog-proof"), &receipt.tlog_proof)?;
    Ok(Saved {
        proof,
        index,
        verified: key.is_some(),
    })
}

/// An opening as its file has it.
fn opening(opening: &v1::Opening) -> anyhow::Result<(CommitmentTag, Vec<u8>)> {
    let tag = u32::try_from(opening.tag)
        .ok()
        .and_then(CommitmentTag::from_number);
    let tag = tag.context("the receipt has an opening of a tag that this program does not know")?;
    Ok((
        tag,
        [opening.salt.as_slice(), opening.content.as_slice()].concat(),
    ))
}

/// Whether a receipt holds together, and its proof under the log's key; answers the entry's index.
fn check(receipt: &v1::Receipt, key: Option<&VerifierKey>) -> anyhow::Result<u64> {
    let text = std::str::from_utf8(&receipt.tlog_proof).context("the proof is not text")?;
    let proof = TlogProof::parse(text).context("the proof does not parse")?;
    let leaf = leaf_hash(&receipt.entry);
    ensure!(
        leaf.as_bytes().as_slice() == receipt.leaf_hash,
        "the receipt's leaf hash is not that of its entry"
    );
    if let Some(key) = key {
        proof
            .verify(&leaf, key)
            .context("the proof does not hold")?;
    }
    Ok(proof.index)
}

#[cfg(test)]
mod tests {
    use waymark_tlog::note::SigningKey;
    use waymark_tlog::{Checkpoint, Edge};

    use super::*;

    const EVENT: &str = "01890000-0000-7000-8000-000000000001";

    fn receipt() -> (v1::Receipt, VerifierKey) {
        let key = SigningKey::from_seed("waymark/test/x", [7; 32]).unwrap();
        let entry = b"an entry".to_vec();
        let mut edge = Edge::empty();
        edge.append(leaf_hash(&entry));
        let checkpoint_note = Checkpoint::new("waymark/test/x", 1, edge.root())
            .unwrap()
            .sign(&key)
            .unwrap();
        let proof = TlogProof {
            index: 0,
            hashes: Vec::new(),
            checkpoint_note,
            extra: None,
        };
        let receipt = v1::Receipt {
            event_id: EVENT.to_owned(),
            leaf_hash: leaf_hash(&entry).as_bytes().to_vec(),
            entry,
            tlog_proof: proof.encode().into_bytes(),
            openings: vec![v1::Opening {
                tag: v1::CommitmentTag::Payload.into(),
                salt: vec![1; 32],
                content: b"body".to_vec(),
            }],
            ..v1::Receipt::default()
        };
        (receipt, key.verifier())
    }

    #[test]
    fn a_receipt_that_holds_is_written_with_entry_and_opening() {
        let dir = tempfile::tempdir().unwrap();
        let (receipt, key) = receipt();
        let saved = save(dir.path(), &receipt, Some(&key)).unwrap();
        assert_eq!((saved.index, saved.verified), (0, true));
        assert_eq!(
            std::fs::read(dir.path().join(format!("{EVENT}.entry"))).unwrap(),
            b"an entry"
        );
        let opening = std::fs::read(dir.path().join(format!("{EVENT}.1.opening"))).unwrap();
        assert_eq!(opening, [[1; 32].as_slice(), b"body"].concat());
        assert!(!save(dir.path(), &receipt, None).unwrap().verified);
    }

    #[test]
    fn a_receipt_that_does_not_hold_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (good, key) = receipt();
        let altered = v1::Receipt {
            entry: b"another entry".to_vec(),
            ..good.clone()
        };
        assert!(save(dir.path(), &altered, Some(&key)).is_err());
        let other = SigningKey::from_seed("waymark/test/x", [8; 32])
            .unwrap()
            .verifier();
        assert!(save(dir.path(), &good, Some(&other)).is_err());
        let unknown = v1::Opening {
            tag: 99,
            ..v1::Opening::default()
        };
        let unknown = v1::Receipt {
            openings: vec![unknown],
            ..good
        };
        assert!(save(dir.path(), &unknown, Some(&key)).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
