//! Re-derives everything of an exported tree from its entries, and names what does not hold.
//!
//! What the log's key has signed is the measure: a tile or an entry counts as altered when the
//! signed root shows the other side to be the true one.

use std::path::Path;

use waymark_core::id::StreamId;
use waymark_tlog::Checkpoint;
use waymark_tlog::note::VerifierKey;

use crate::report::{Checked, Findings, Report};
use crate::tree::Tree;

use attachments::{Openings, check_receipts};
use history::History;
use ledger::Ledger;
use stream::StreamWatch;
use walk::{Setting, UNREAD_MAX, Walked};

mod attachments;
mod bundle;
mod history;
mod ledger;
mod signed;
mod strays;
mod stream;
mod walk;

pub(crate) use signed::refusal;

/// Entries whose events and streams are held in memory at once: about 200 bytes each.
pub const ENTRIES_IN_MEMORY_MAX: u64 = 1 << 21;

/// What to verify with, besides the tree itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keys to trust; where there are none, the tree's own are taken.
    pub keys: Vec<VerifierKey>,
    /// Checkpoints kept from earlier, which the tree must extend.
    pub old_checkpoints: Vec<Exhibit>,
    /// Receipts kept from earlier, which the tree must bear out.
    pub receipts: Vec<Exhibit>,
    /// Stream to list; where there is none, that of the first receipt.
    pub stream: Option<StreamId>,
    /// Entries whose events and streams are held in memory at once; a larger log is read again for
    /// each such part.
    pub entries_in_memory_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            old_checkpoints: Vec::new(),
            receipts: Vec::new(),
            stream: None,
            entries_in_memory_max: ENTRIES_IN_MEMORY_MAX,
        }
    }
}

/// A file from outside the tree, with the name to call it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhibit {
    /// Name in findings.
    pub name: String,
    /// Content.
    pub text: String,
}

/// Entries read so far, and how many there are to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Entries read.
    pub done: u64,
    /// Entries to read, every pass counted.
    pub total: u64,
}

/// Verifies the tree in a directory.
pub fn verify_tree(dir: &Path, options: &Options) -> Report {
    verify_tree_with(dir, options, &mut |_| {})
}

/// Verifies the tree in a directory and tells from time to time how far it is.
pub fn verify_tree_with(
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Report {
    let mut verification = Verification {
        tree: Tree::new(dir),
        findings: Findings::default(),
        checked: Checked::default(),
        notes: Vec::new(),
        keys: Vec::new(),
    };
    let outcome = verification.run(options, progress);
    verification.report(options, outcome)
}

struct Verification {
    tree: Tree,
    findings: Findings,
    checked: Checked,
    notes: Vec<String>,
    keys: Vec<VerifierKey>,
}

struct Outcome {
    head: Checkpoint,
    stream: Option<StreamWatch>,
}

impl Verification {
    fn run(&mut self, options: &Options, progress: &mut dyn FnMut(Progress)) -> Option<Outcome> {
        self.keys = signed::keys(&self.tree, &options.keys, &mut self.findings)?;
        if options.keys.is_empty() {
            self.notes.push(
                "the keys were taken from the tree itself: name them to know whose log this is"
                    .into(),
            );
        }
        let mut history = History::default();
        let head = signed::checkpoints(
            &self.tree,
            &self.keys,
            &options.old_checkpoints,
            &mut history,
            &mut self.findings,
        )?;
        let given = check_receipts(
            &self.tree,
            &self.keys,
            &options.receipts,
            &head,
            &mut history,
            &mut self.findings,
        );
        self.checked.receipts = given.checked;
        self.checked.checkpoints = history.checkpoints;
        let mut stream = options.stream.or(given.stream).map(StreamWatch::new);
        let mut openings = Openings::list(&self.tree, &mut self.findings);
        let mut passes = head
            .size()
            .div_ceil(options.entries_in_memory_max.max(1))
            .max(1);
        let mut ledger = Ledger::new(head.size(), passes);
        let total = head.size().saturating_mul(passes);
        let walked = walk::walk(Setting {
            tree: &self.tree,
            head: &head,
            findings: &mut self.findings,
            history: &mut history,
            ledger: &mut ledger,
            openings: &mut openings,
            stream: stream.as_mut(),
            checked: &mut self.checked,
            tell: &mut |done| progress(Progress { done, total }),
        });
        if walked == Walked::Stopped {
            self.notes.push(format!(
                "more than {UNREAD_MAX} files could not be read: the rest was not looked at"
            ));
            passes = 1;
        }
        for pass in 1..passes {
            let before = head.size().saturating_mul(pass);
            let mut tell = |done| {
                progress(Progress {
                    done: before + done,
                    total,
                });
            };
            ledger.read_again(&self.tree, pass, &mut tell);
        }
        self.checked.streams = ledger.streams();
        self.checked.openings = openings.checked();
        self.notes
            .extend(openings.finish(ledger.entries(), &mut self.findings));
        self.notes.extend(ledger.finish(&mut self.findings));
        self.notes.extend(history.note());
        strays::check(&self.tree, &head, &mut self.findings, &mut self.notes);
        Some(Outcome { head, stream })
    }

    fn report(mut self, options: &Options, outcome: Option<Outcome>) -> Report {
        let (head, stream) = match outcome {
            Some(Outcome { head, stream }) => (Some(head), stream),
            None => (None, None),
        };
        let stream = stream.map(|stream| stream.finish(&mut self.findings));
        Report {
            verdict: self.findings.verdict(),
            origin: head.as_ref().map(|head| head.origin().to_owned()),
            size: head.as_ref().map(Checkpoint::size),
            root: head.as_ref().map(|head| head.root().to_string()),
            keys: self.keys.iter().map(ToString::to_string).collect(),
            keys_pinned: !options.keys.is_empty(),
            checked: self.checked,
            findings: self.findings.list,
            findings_omitted: self.findings.omitted,
            notes: self.notes,
            stream,
        }
    }
}
