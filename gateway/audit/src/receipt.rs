//! Verifies one receipt on its own, without the tree.

use serde::Serialize;
use waymark_core::audit::LogEntry;
use waymark_tlog::note::VerifierKey;
use waymark_tlog::{ProofFileError, TlogProof, leaf_hash};

use crate::entry_view::EntryView;
use crate::report::{Findings, Place, Verdict, What, causes};
use crate::{Finding, verify};

/// Result of verifying a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiptReport {
    /// The answer.
    pub verdict: Verdict,
    /// Which log gave the receipt.
    pub origin: Option<String>,
    /// Index of the entry in that log.
    pub index: Option<u64>,
    /// Size of the tree that the receipt leads to.
    pub size: Option<u64>,
    /// Root of that tree, base64.
    pub root: Option<String>,
    /// Leaf hash of the entry, hexadecimal.
    pub leaf: Option<String>,
    /// What the entry says.
    pub entry: Option<EntryView>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Verifies a receipt for an entry, which the receipt may carry itself as its extra data.
pub fn verify_receipt(
    receipt: &verify::Exhibit,
    entry: Option<&[u8]>,
    keys: &[VerifierKey],
) -> ReceiptReport {
    let mut findings = Findings::default();
    let mut report = ReceiptReport {
        verdict: Verdict::Ok,
        origin: None,
        index: None,
        size: None,
        root: None,
        leaf: None,
        entry: None,
        findings: Vec::new(),
    };
    check(receipt, entry, keys, &mut report, &mut findings);
    report.verdict = findings.verdict();
    report.findings = findings.list;
    report
}

fn check(
    receipt: &verify::Exhibit,
    entry: Option<&[u8]>,
    keys: &[VerifierKey],
    report: &mut ReceiptReport,
    findings: &mut Findings,
) {
    let at = || Place::file(&receipt.name);
    let proof = match TlogProof::parse(&receipt.text) {
        Ok(proof) => proof,
        Err(error) => return findings.add(What::ReceiptRefused, at(), causes(&error)),
    };
    report.index = Some(proof.index);
    let Some(bytes) = entry.or(proof.extra.as_deref()) else {
        let detail = "the receipt does not carry its entry, and none was given";
        return findings.add(What::EntryMissing, at(), detail);
    };
    let leaf = leaf_hash(bytes);
    report.leaf = Some(format!("{leaf:x}"));
    match proof.verify_any(&leaf, keys) {
        Ok(checkpoint) => {
            report.origin = Some(checkpoint.origin().to_owned());
            report.size = Some(checkpoint.size());
            report.root = Some(checkpoint.root().to_string());
        }
        Err(error) => {
            let what = match &error {
                ProofFileError::Checkpoint(error) => verify::refusal(error),
                _ => What::ReceiptRefused,
            };
            return findings.add(what, at(), causes(&error));
        }
    }
    if proof.extra.as_deref().is_some_and(|extra| extra != bytes) {
        let detail = "its extra data is not the entry that it proves";
        findings.add(What::ReceiptRefused, at(), detail);
    }
    match LogEntry::decode(bytes) {
        Ok(entry) => report.entry = Some(EntryView::from(&entry)),
        Err(error) => findings.add(What::EntryMalformed, at(), error.to_string()),
    }
}
