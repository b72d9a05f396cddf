//! What no hash can show: that every event is logged once and every stream runs without a gap.
//!
//! Memory holds the events and streams of one part of the log's ids at a time; a larger log is read
//! once more for each further part. Which part an id belongs to is keyed at random, so that nobody
//! can choose ids that crowd one part.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use waymark_core::audit::LogEntry;
use waymark_tlog::{Hash, TILE_WIDTH, bundle_width};

use crate::report::{Findings, Place, What};
use crate::tree::Tree;

use super::bundle::{self, Bundle};

/// Events and streams of the part of the log that is being read.
#[derive(Debug)]
pub(super) struct Ledger {
    size: u64,
    passes: u64,
    pass: u64,
    parts: RandomState,
    /// Index at which each event was first seen.
    events: HashMap<[u8; 16], u64>,
    /// Last entry of each stream.
    streams: HashMap<[u8; 16], Tip>,
    streams_before: u64,
    /// Entries whose content is not known.
    doubts: u64,
    repeated: Findings,
    broken: Findings,
}

/// Whether the content of every entry is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entries {
    Known,
    InDoubt,
}

#[derive(Clone, Copy, Debug)]
struct Tip {
    seq: u32,
    leaf: Hash,
}

impl Ledger {
    pub(super) fn new(size: u64, passes: u64) -> Self {
        Self {
            size,
            passes,
            pass: 0,
            parts: RandomState::new(),
            events: HashMap::new(),
            streams: HashMap::new(),
            streams_before: 0,
            doubts: 0,
            repeated: Findings::default(),
            broken: Findings::default(),
        }
    }

    /// Takes note of an entry whose content is not that of the tree, or not to be had.
    pub(super) fn doubt(&mut self) {
        self.doubts += 1;
    }

    /// Takes in the next entry of the log.
    pub(super) fn entry(&mut self, at: Place, index: u64, leaf: Hash, entry: &LogEntry) {
        if self.is_present(entry.event.as_bytes()) {
            match self.events.entry(*entry.event.as_bytes()) {
                Entry::Occupied(first) => {
                    let detail = format!("event {} is already entry {}", entry.event, first.get());
                    self.repeated.add(What::EventRepeated, at.clone(), detail);
                }
                Entry::Vacant(place) => {
                    place.insert(index);
                }
            }
        }
        if self.is_present(entry.stream.as_bytes()) {
            let tip = Tip {
                seq: entry.stream_seq,
                leaf,
            };
            let before = self.streams.insert(*entry.stream.as_bytes(), tip);
            if let Err(detail) = follows(before.map(|tip| (tip.seq, tip.leaf)), entry) {
                let detail = format!("stream {}: {detail}", entry.stream);
                self.broken.add(What::StreamBroken, at, detail);
            }
        }
    }

    /// Reads all entries once more, for the next part of the ids.
    pub(super) fn read_again(&mut self, tree: &Tree, pass: u64, tell: &mut dyn FnMut(u64)) {
        self.streams_before = self.streams();
        self.events.clear();
        self.streams.clear();
        self.pass = pass;
        let width = u64::try_from(TILE_WIDTH).unwrap_or(u64::MAX);
        for number in 0..self.size.div_ceil(width) {
            // What cannot be read now was found, and doubted, at the first reading.
            let Ok(bytes) = bundle::read(tree, number, self.size) else {
                continue;
            };
            let bundle = Bundle::parse(number, bundle_width(number, self.size), &bytes);
            for (place, (leaf, (_, entry))) in bundle.leaves.iter().zip(&bundle.entries).enumerate()
            {
                let index = bundle.first + u64::try_from(place).unwrap_or(u64::MAX);
                if let (Some(leaf), Ok(entry)) = (leaf, LogEntry::decode(entry)) {
                    self.entry(bundle.place(place), index, *leaf, &entry);
                }
            }
            tell(bundle.first);
        }
    }

    /// Whether the content of every entry read so far is known.
    pub(super) fn entries(&self) -> Entries {
        if self.doubts == 0 {
            Entries::Known
        } else {
            Entries::InDoubt
        }
    }

    /// Streams seen so far.
    pub(super) fn streams(&self) -> u64 {
        self.streams_before + u64::try_from(self.streams.len()).unwrap_or(u64::MAX)
    }

    /// Hands over the findings. Gaps that altered entries leave in streams are no findings of their
    /// own: a note says so.
    pub(super) fn finish(self, findings: &mut Findings) -> Option<String> {
        let entries = self.entries();
        findings.append(self.repeated);
        if entries == Entries::Known {
            findings.append(self.broken);
            return None;
        }
        Some(
            "streams could not be checked for gaps, because entries were altered or are missing"
                .into(),
        )
    }

    fn is_present(&self, id: &[u8; 16]) -> bool {
        self.parts.hash_one(id) % self.passes == self.pass
    }
}

/// Whether an entry continues its stream after the one before.
pub(super) fn follows(before: Option<(u32, Hash)>, entry: &LogEntry) -> Result<(), String> {
    let seq = entry.stream_seq;
    let Some((last, leaf)) = before else {
        return if seq == 0 {
            Ok(())
        } else {
            Err(format!("it begins with number {seq}, not 0"))
        };
    };
    if last.checked_add(1) != Some(seq) {
        return Err(format!("number {seq} follows number {last}"));
    }
    if entry.prev_leaf.as_ref() == Some(leaf.as_bytes()) {
        Ok(())
    } else {
        Err(format!(
            "number {seq} does not name the leaf of number {last}"
        ))
    }
}
