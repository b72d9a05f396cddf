//! Every root that the log has signed, held against the root that the entries give at that size.

use std::collections::BTreeMap;

use waymark_tlog::{Checkpoint, Edge, Hash};

use crate::report::{Findings, Place, What};

/// Signed roots by size, and the tree as it grows entry by entry.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Checkpoints taken in.
    pub(super) checkpoints: u64,
    claims: BTreeMap<u64, Vec<Claim>>,
    edge: Edge,
    /// Size up to which every leaf hash is known, once one is not.
    lost_at: Option<u64>,
    agreed_at: u64,
}

#[derive(Debug)]
struct Claim {
    file: String,
    root: Hash,
}

impl History {
    /// Takes in a verified checkpoint; the same root twice is compared once.
    pub(super) fn claim(&mut self, file: &str, checkpoint: &Checkpoint) {
        self.checkpoints += 1;
        let claims = self.claims.entry(checkpoint.size()).or_default();
        let root = checkpoint.root();
        if !claims.iter().any(|claim| claim.root == root) {
            claims.push(Claim {
                file: file.to_owned(),
                root,
            });
        }
    }

    /// Compares what is signed for the tree without entries.
    pub(super) fn begin(&mut self, findings: &mut Findings) {
        self.compare(findings);
    }

    /// Adds the next leaf; a leaf that nothing can tell ends the comparison.
    pub(super) fn grow(&mut self, leaf: Option<Hash>, findings: &mut Findings) {
        match leaf {
            Some(leaf) if self.lost_at.is_none() => {
                self.edge.append(leaf);
                self.compare(findings);
            }
            _ => {
                self.lost_at.get_or_insert(self.edge.size());
            }
        }
    }

    /// Forgets the finished tiles that the edge keeps for writers.
    pub(super) fn trim(&mut self) {
        drop(self.edge.take_changed());
    }

    /// Whether the entries, as far as all are known, lead to this checkpoint.
    pub(super) fn leads_to(&self, head: &Checkpoint) -> bool {
        self.lost_at.is_none() && self.edge.size() == head.size() && self.edge.root() == head.root()
    }

    /// What the reader must know when some checkpoints could not be compared.
    pub(super) fn note(&self) -> Option<String> {
        let size = self.lost_at?;
        let skipped = self.claims.len();
        (skipped > 0).then(|| {
            format!("{skipped} signed roots beyond entry {size} could not be compared: a leaf there is not known")
        })
    }

    fn compare(&mut self, findings: &mut Findings) {
        let size = self.edge.size();
        let Some(claims) = self.claims.remove(&size) else {
            return;
        };
        let root = self.edge.root();
        for claim in claims {
            if claim.root == root {
                self.agreed_at = size;
                continue;
            }
            let agreed = self.agreed_at;
            let signed = claim.root;
            let detail = format!(
                "the first {size} entries have root {root}, but root {signed} was signed for them; they agree with what was signed up to entry {agreed}"
            );
            findings.add(What::HistoryDiffers, Place::file(claim.file), detail);
        }
    }
}
