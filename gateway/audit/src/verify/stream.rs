//! The complete list of one stream's entries.

use waymark_core::audit::LogEntry;
use waymark_core::id::StreamId;
use waymark_tlog::Hash;

use crate::entry_view::EntryView;
use crate::layout::TILE;
use crate::report::{Findings, Place, StreamEntry, StreamReport, What};

use super::ledger::follows;

/// Most entries of a stream that are listed.
const ENTRIES_MAX: usize = 10_000;

/// Collects a stream as it goes by.
#[derive(Debug)]
pub(super) struct StreamWatch {
    stream: StreamId,
    entries: Vec<StreamEntry>,
    last: Option<(u32, Hash)>,
    /// Whether each entry so far follows the one before.
    whole: bool,
}

impl StreamWatch {
    pub(super) fn new(stream: StreamId) -> Self {
        Self {
            stream,
            entries: Vec::new(),
            last: None,
            whole: true,
        }
    }

    pub(super) fn see(&mut self, index: u64, leaf: Hash, entry: &LogEntry) {
        if entry.stream != self.stream {
            return;
        }
        if self.entries.len() == ENTRIES_MAX {
            self.whole = false;
            return;
        }
        self.whole &= follows(self.last, entry).is_ok();
        self.last = Some((entry.stream_seq, leaf));
        let leaf = format!("{leaf:x}");
        self.entries.push(StreamEntry {
            index,
            leaf,
            entry: EntryView::from(entry),
        });
    }

    pub(super) fn finish(self, findings: &mut Findings) -> StreamReport {
        if self.entries.is_empty() {
            let detail = format!("no entry of stream {} is in the tree", self.stream);
            findings.add(What::StreamAbsent, Place::file(TILE), detail);
        }
        let proven = findings.omitted == 0
            && findings
                .list
                .iter()
                .all(|finding| leaves_streams_proven(finding.what));
        StreamReport {
            stream: self.stream.to_string(),
            complete_and_unaltered: self.whole && proven && !self.entries.is_empty(),
            entries: self.entries,
        }
    }
}

/// Whether all entries are still known to be those of the signed tree. Breaks of other streams do
/// not matter here: this one's own are found by [`StreamWatch::see`].
fn leaves_streams_proven(what: What) -> bool {
    match what {
        What::TileAltered
        | What::EventRepeated
        | What::StreamBroken
        | What::ReceiptRefused
        | What::OpeningRefused
        | What::FileUnexpected => true,
        What::FileMissing
        | What::FileLength
        | What::FileUnreadable
        | What::NotATree
        | What::KeyRefused
        | What::KeyMissing
        | What::CheckpointRefused
        | What::SignerUnknown
        | What::CheckpointBehind
        | What::HistoryDiffers
        | What::EntryAltered
        | What::EntryExtra
        | What::Undecided
        | What::EntryMalformed
        | What::EntryMissing
        | What::StreamAbsent => false,
    }
}

#[cfg(test)]
mod tests {
    use waymark_core::audit::{EntryKind, LogEntry};
    use waymark_core::id::{EventId, StreamId};
    use waymark_core::time::Timestamp;
    use waymark_tlog::{Hash, leaf_hash};

    use super::{ENTRIES_MAX, StreamWatch};
    use crate::report::Findings;

    #[test]
    fn a_stream_up_to_the_limit_is_listed_and_a_longer_one_is_not_called_complete() {
        let stream = StreamId::from_bytes([7; 16]);
        let mut watch = StreamWatch::new(stream);
        let mut last: Option<Hash> = None;
        let mut see = |watch: &mut StreamWatch, seq: u32| {
            let entry = LogEntry {
                kind: EntryKind::Attempt,
                event: EventId::from_bytes([1; 16]),
                at: Timestamp::from_ms(0),
                stream,
                stream_seq: seq,
                prev_leaf: last.map(|leaf| *leaf.as_bytes()),
                actor: [0; 16],
                org: "EE1".parse().expect("good code"),
                codes: Vec::new(),
                commitments: Vec::new(),
                reference: None,
            };
            let leaf = leaf_hash(&seq.to_be_bytes());
            last = Some(leaf);
            watch.see(u64::from(seq), leaf, &entry);
        };
        let limit = u32::try_from(ENTRIES_MAX).expect("small");
        (0..limit).for_each(|seq| see(&mut watch, seq));
        assert!(watch.whole);
        see(&mut watch, limit);
        let report = watch.finish(&mut Findings::default());
        assert_eq!(
            (report.entries.len(), report.complete_and_unaltered),
            (ENTRIES_MAX, false)
        );
    }
}
