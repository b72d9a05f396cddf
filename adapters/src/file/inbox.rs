//! Taking in what an agency left for us: receipts, refusals, statuses and referrals. A file leaves its folder only
//! once the intake answered; what is not whole waits, and is set aside with words that say what is missing.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use waymark_core::delivery::Why;
use waymark_core::directory::Endpoint;
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::personal::Payload;
use waymark_core::port::{
    Channel, Collected, Inbound, InboundBody, InboundDocument, Intake, IntakeError,
};
use waymark_core::time::Timestamp;

use super::bare;
use super::config::Settings;
use super::name::Name;
use super::package::{
    FileRole, MANIFEST_BYTES_MAX, MANIFEST_SUFFIX, MANIFEST_VERSION, Manifest, ill_formed, sha256,
};
use super::place::{Entry, PART_SUFFIX, Place, PlaceError, Sub};
use super::seen::{Seen, Since};
use super::wire::{self, Said};

/// Files of one folder that are listed.
pub(super) const LISTED_FILES_MAX: usize = 5_000;
/// Messages that one round takes from one folder.
pub(super) const ROUND_MESSAGES_MAX: usize = 50;
/// Files that one round removes from a folder whose time to keep them is over.
pub(super) const ROUND_CLEARED_MAX: usize = 100;
/// The most bytes of a data file.
pub(super) const DATA_BYTES_MAX: u64 = 1024 * 1024;
/// The most bytes of one document.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 25 * 1024 * 1024;
/// The most bytes of all documents of one message.
pub(super) const DOCUMENTS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What the name of a file ends with that says why another was set aside.
pub(super) const ERROR_SUFFIX: &str = ".error.json";

/// What the name of a CSV file ends with.
const CSV_SUFFIX: &str = ".csv";

/// Why a round goes no further.
pub(super) enum Stop {
    Place(PlaceError),
    Told(Why),
    Late,
}

impl From<PlaceError> for Stop {
    fn from(error: PlaceError) -> Self {
        Self::Place(error)
    }
}

/// What became of a message that was handed over.
pub(super) enum Answer {
    Taken,
    Refused(Vec<Violation>, &'static str),
}

/// What a message is found to be.
enum Found {
    /// Whole: its manifest, data and documents.
    Whole(Box<Manifest>, Vec<u8>, Vec<InboundDocument>),
    /// Not whole, or not yet.
    Incomplete(Violation),
    /// Whole, and nothing that can be taken in.
    Wrong(Vec<Violation>),
}

/// One round at one place.
pub(super) struct Round<'a> {
    pub(super) place: &'a Place,
    pub(super) endpoint: &'a Endpoint,
    pub(super) settings: &'a Settings,
    pub(super) intake: &'a dyn Intake,
    pub(super) now: Timestamp,
    pub(super) until: Instant,
    pub(super) seen: &'a Seen,
    /// Since when the files of the folder that was listed last stand there.
    pub(super) since: Since,
    /// Whether a folder holds more than is listed.
    pub(super) crowded: bool,
    pub(super) collected: Collected,
}

/// What a folder holds.
pub(super) struct Holding {
    pub(super) files: Vec<Entry>,
    /// Whether these are all.
    pub(super) is_all: bool,
    /// Entries that are no files, or have names that none may have.
    pub(super) unusable: usize,
}

impl Round<'_> {
    /// Looks through all folders.
    pub(super) async fn run(mut self) -> Collected {
        let until = self.until;
        let stopped = match timeout_at(until, self.folders()).await {
            Ok(Ok(_)) if self.crowded => {
                let text = format!("a folder holds more than {LISTED_FILES_MAX} files: clear it of what is no message");
                Some(Why::new("file.crowded", text))
            }
            Ok(Ok(unusable)) => (unusable > 0).then(|| {
                let text = format!("{unusable} entries are no files of ours to read: names have letters, digits, '.', '_' and '-', and links are not followed");
                Why::new("file.names", text)
            }),
            Ok(Err(Stop::Place(error))) => Some(Why::new("file.folder", error.to_string())),
            Ok(Err(Stop::Told(why))) => Some(why),
            Ok(Err(Stop::Late)) | Err(_) => Some(Why::new("file.timeout", "the round did not end in its time")),
        };
        self.collected.more &= self.crowded || stopped.is_none();
        self.collected.stopped = stopped;
        self.collected
    }

    async fn folders(&mut self) -> Result<usize, Stop> {
        let receipts = self.receipts().await?;
        let rejected = self.rejected().await?;
        let inbox = self.inbox().await?;
        for sub in [Sub::Done, Sub::Failed] {
            self.clear(sub).await?;
        }
        Ok(receipts + rejected + inbox)
    }

    /// Removes what has been kept as long as was agreed: it is about children, and whoever still needs it has taken it.
    async fn clear(&mut self, sub: Sub) -> Result<(), Stop> {
        let before = self.now.minus(self.settings.keep);
        let old = self.place.old(sub, before, ROUND_CLEARED_MAX).await?;
        for name in &old {
            self.place.remove(sub, name).await?;
        }
        if !old.is_empty() {
            let (endpoint, folder) = (&self.endpoint.id, sub.as_str());
            tracing::info!(endpoint.id = %endpoint, folder, count = old.len(), "files were kept long enough and are removed");
        }
        Ok(())
    }

    /// The files of a folder. Those that come into one with too many for one listing may wait unseen: somebody is told.
    pub(super) async fn listed(&mut self, sub: Sub) -> Result<Holding, Stop> {
        let listing = self.place.list(sub, LISTED_FILES_MAX).await?;
        self.crowded |= listing.more;
        let whole = |file: &Entry| !file.name.as_str().ends_with(PART_SUFFIX);
        let files: Vec<Entry> = listing.files.into_iter().filter(whole).collect();
        self.since = self.seen.note(&self.endpoint.id, sub, &files, self.now);
        Ok(Holding {
            files,
            is_all: !listing.more,
            unusable: listing.unusable,
        })
    }

    /// How long a file of the folder that was listed last has stood there unchanged.
    pub(super) fn age(&self, file: &Entry) -> Duration {
        let seen = self.since.get(&file.name).copied().unwrap_or(self.now);
        self.now.since(seen.max(file.modified))
    }

    async fn inbox(&mut self) -> Result<usize, Stop> {
        let Holding {
            mut files,
            is_all,
            unusable,
        } = self.listed(Sub::Inbox).await?;
        // The order in which they were left: an amendment follows what it amends.
        files.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
        let mut named: BTreeSet<Name> = BTreeSet::new();
        let mut taken = 0;
        for file in &files {
            if file.name.without(MANIFEST_SUFFIX).is_none() {
                continue;
            }
            if taken >= ROUND_MESSAGES_MAX {
                // What the manifests that are not read yet name is not known: no file stands alone for sure.
                self.collected.more = true;
                return Ok(unusable);
            }
            named.insert(file.name.clone());
            let manifest = self.manifest(&file.name).await?;
            if let Ok(manifest) = &manifest {
                named.extend(manifest.files.iter().map(|listed| listed.name.clone()));
            }
            let found = match manifest {
                Ok(manifest) => self.whole(manifest).await?,
                Err(fault) => Found::Incomplete(fault),
            };
            // What waits to be whole keeps nobody else waiting.
            taken += usize::from(!matches!(found, Found::Incomplete(_)));
            self.take(file, found).await?;
        }
        // Its manifest may be among those that were not listed.
        let lone = files
            .iter()
            .filter(|file| is_all && !named.contains(&file.name));
        for file in lone {
            self.lone(file).await?;
        }
        Ok(unusable)
    }

    /// A file without a manifest: a CSV file where that was agreed, else something that waits for its manifest.
    async fn lone(&mut self, file: &Entry) -> Result<(), Stop> {
        let bare_after = self.settings.bare_csv_after;
        if let Some(after) = bare_after.filter(|_| file.name.without(CSV_SUFFIX).is_some()) {
            if self.age(file) < after {
                return Ok(());
            }
            let read = self
                .place
                .read(Sub::Inbox, &file.name, DATA_BYTES_MAX)
                .await;
            let found = match read {
                Ok(None) => return Ok(()),
                Ok(Some(bytes)) => match bare::manifest(&file.name, file.modified, &bytes) {
                    Ok(manifest) => Found::Whole(Box::new(manifest), bytes, Vec::new()),
                    Err(faults) => Found::Wrong(faults),
                },
                Err(PlaceError::TooLarge) => Found::Wrong(vec![too_large(&file.name)]),
                Err(error) => return Err(error.into()),
            };
            return self.take(file, found).await;
        }
        self.misnamed(
            Sub::Inbox,
            file,
            "no manifest names it: write <id>.manifest.json last",
        )
        .await
    }

    /// Reads a manifest; one that cannot be read may still be being written.
    async fn manifest(&self, name: &Name) -> Result<Result<Manifest, Violation>, Stop> {
        let most = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        let bytes = match self.place.read(Sub::Inbox, name, most).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Err(Violation::new("manifest", "is gone"))),
            Err(PlaceError::TooLarge) => return Ok(Err(too_large(name))),
            Err(error) => return Err(error.into()),
        };
        let read: Result<Manifest, _> = serde_json::from_slice(&bytes);
        Ok(match read {
            Ok(manifest) if manifest.file_name() == name.as_str() => Ok(manifest),
            Ok(_) => Err(Violation::new(
                "manifest.id",
                "is not what the manifest's name says",
            )),
            Err(error) => {
                let place = format!("line {}, column {}", error.line(), error.column());
                let why = format!("is no manifest of version {MANIFEST_VERSION}: {place}");
                Err(Violation::new("manifest", why))
            }
        })
    }

    /// Reads what a manifest names and checks sizes and digests.
    async fn whole(&self, manifest: Manifest) -> Result<Found, Stop> {
        if let Some(wrong) = ill_formed(&manifest) {
            return Ok(Found::Wrong(vec![wrong]));
        }
        let mut data = Vec::new();
        let mut documents = Vec::new();
        let mut left = DOCUMENTS_BYTES_MAX;
        for (at, file) in manifest.files.iter().enumerate() {
            let field = |what: &str| format!("manifest.files[{at}].{what}");
            let most = match file.role {
                FileRole::Data => DATA_BYTES_MAX,
                FileRole::Document => DOCUMENT_BYTES_MAX.min(left),
            };
            if file.size > most {
                let why = format!("is more than the {most} bytes that are taken");
                return Ok(Found::Wrong(vec![Violation::new(field("size"), why)]));
            }
            let Some(bytes) = self.file(&file.name, file.size).await? else {
                let why = "is not there, or larger than the manifest says";
                return Ok(Found::Incomplete(Violation::new(field("name"), why)));
            };
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) != file.size {
                let why = "is not the size of the file: write the manifest last";
                return Ok(Found::Incomplete(Violation::new(field("size"), why)));
            }
            if sha256(&bytes) != file.sha256 {
                let why = "is not the SHA-256 of the file, in lower-case hex";
                return Ok(Found::Incomplete(Violation::new(field("sha256"), why)));
            }
            match file.role {
                FileRole::Data => data = bytes,
                FileRole::Document => {
                    left = left.saturating_sub(file.size);
                    documents.push(InboundDocument {
                        media_type: file.media_type.clone(),
                        sha256: Some(file.sha256.clone()),
                        title: None,
                        kind: None,
                        bytes: Payload::new(bytes),
                    });
                }
            }
        }
        Ok(Found::Whole(Box::new(manifest), data, documents))
    }

    /// A file of a message, in the inbox or where an interrupted round moved it to.
    async fn file(&self, name: &Name, most: u64) -> Result<Option<Vec<u8>>, Stop> {
        for sub in [Sub::Inbox, Sub::Done] {
            match self.place.read(sub, name, most).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) | Err(PlaceError::TooLarge) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Hands a message over, or sets it aside.
    async fn take(&mut self, file: &Entry, found: Found) -> Result<(), Stop> {
        let (manifest, data, documents) = match found {
            Found::Whole(manifest, data, documents) => (manifest, data, documents),
            Found::Incomplete(fault) => {
                if self.age(file) >= self.settings.incomplete_after {
                    self.set_aside(Sub::Inbox, &file.name, &[], &[fault], "INCOMPLETE")
                        .await?;
                }
                return Ok(());
            }
            Found::Wrong(faults) => {
                return self
                    .set_aside(Sub::Inbox, &file.name, &[], &faults, "INVALID")
                    .await;
            }
        };
        let others: Vec<Name> = manifest
            .files
            .iter()
            .map(|f| f.name.clone())
            .filter(|n| *n != file.name)
            .collect();
        let said = match wire::read(&manifest, &data, self.settings, &self.endpoint.codes) {
            Ok(said) => said,
            Err(faults) => {
                return self
                    .set_aside(Sub::Inbox, &file.name, &others, &faults, "INVALID")
                    .await;
            }
        };
        let mut refused = Vec::new();
        let mut reason = "";
        for each in said {
            let row = each.row;
            let inbound = self.inbound(&manifest, &data, &documents, each);
            if let Answer::Refused(faults, why) = self.hand_over(inbound).await? {
                reason = why;
                let place = |v: Violation| match row {
                    Some(row) => Violation::new(format!("row {row}, {}", v.field), v.why),
                    None => v,
                };
                refused.extend(faults.into_iter().map(place));
            }
        }
        let answer = if reason.is_empty() {
            Answer::Taken
        } else {
            Answer::Refused(refused, reason)
        };
        self.settle(answer, Sub::Inbox, &file.name, &others).await
    }

    fn inbound(
        &self,
        manifest: &Manifest,
        data: &[u8],
        documents: &[InboundDocument],
        said: Said,
    ) -> Inbound {
        let id = &manifest.id;
        let key = said
            .row
            .map_or_else(|| id.to_string(), |row| format!("{id}/{row}"));
        let media_type = manifest.format.media_type();
        let mut inbound = self.message(key, data.to_vec(), media_type, said.body);
        // What is in a row of many is told apart by its row alone; what is whole, by its documents too.
        let mut fingerprint = data.to_vec();
        for document in documents {
            fingerprint
                .extend_from_slice(document.sha256.as_deref().unwrap_or_default().as_bytes());
        }
        inbound.fingerprint = Payload::new(fingerprint);
        inbound.claimed_sender = said.claimed_sender;
        // The manifest and the message must both be of this deployment's kind: the one that is not is shown.
        inbound.environment = Some(match said.environment {
            Some(own) if own != manifest.environment => own,
            Some(_) | None => manifest.environment,
        });
        inbound.attachments = said.documents;
        inbound.attachments.extend_from_slice(documents);
        inbound
    }

    pub(super) fn message(
        &self,
        message_key: String,
        bytes: Vec<u8>,
        media_type: &str,
        body: InboundBody,
    ) -> Inbound {
        Inbound {
            channel: Channel::Peer(format!("file:{}", self.endpoint.id)),
            claimed_sender: None,
            message_key,
            fingerprint: Payload::new(bytes.clone()),
            original: Payload::new(bytes),
            media_type: media_type.to_owned(),
            traceparent: None,
            environment: None,
            attachments: Vec::new(),
            conversation: None,
            body,
        }
    }

    /// Hands a message over. What may be taken later stays where it is, and the round ends.
    pub(super) async fn hand_over(&mut self, message: Inbound) -> Result<Answer, Stop> {
        let taken = timeout_at(self.until, self.intake.take(message)).await;
        match taken.map_err(|_| Stop::Late)? {
            Ok(_answer) => Ok(Answer::Taken),
            Err(IntakeError {
                kind,
                violations,
                reason,
            }) => match kind {
                ErrorKind::Exhausted
                | ErrorKind::Unavailable
                | ErrorKind::Internal
                | ErrorKind::Corrupt => {
                    let text = format!("what came cannot be taken in now ({reason})");
                    Err(Stop::Told(Why::new("file.not_now", text)))
                }
                ErrorKind::Unauthenticated => {
                    let text = format!(
                        "the directory has no identity file:{} that holds today",
                        self.endpoint.id
                    );
                    Err(Stop::Told(Why::new("file.identity", text)))
                }
                ErrorKind::Invalid
                | ErrorKind::Denied
                | ErrorKind::NotFound
                | ErrorKind::Conflict
                | ErrorKind::Precondition => {
                    let violations = if violations.is_empty() {
                        vec![Violation::new("message", kind.sentence())]
                    } else {
                        violations
                    };
                    Ok(Answer::Refused(violations, reason))
                }
            },
        }
    }

    /// Moves a message on once it was answered: its other files first, so that an interrupted move is found again.
    pub(super) async fn settle(
        &mut self,
        answer: Answer,
        from: Sub,
        name: &Name,
        others: &[Name],
    ) -> Result<(), Stop> {
        match answer {
            Answer::Taken => {
                for file in others.iter().chain([name]) {
                    self.place.shift(from, Sub::Done, file, self.now).await?;
                }
                self.collected.taken = self.collected.taken.saturating_add(1);
                Ok(())
            }
            Answer::Refused(faults, reason) => {
                self.set_aside(from, name, others, &faults, reason).await
            }
        }
    }

    /// Sets a file aside that says nothing we know, once it has been there too long to be on its way.
    pub(super) async fn misnamed(
        &mut self,
        from: Sub,
        file: &Entry,
        why: &str,
    ) -> Result<(), Stop> {
        if self.age(file) < self.settings.incomplete_after {
            return Ok(());
        }
        let fault = Violation::new("file", why);
        self.set_aside(from, &file.name, &[], &[fault], "UNNAMED")
            .await
    }

    /// Sets a message aside, with a file beside it that says why.
    pub(super) async fn set_aside(
        &mut self,
        from: Sub,
        name: &Name,
        others: &[Name],
        faults: &[Violation],
        reason: &str,
    ) -> Result<(), Stop> {
        let stem = name.without(MANIFEST_SUFFIX).unwrap_or(name.as_str());
        let note = serde_json::json!({
            "file": name.as_str(), "at": self.now.to_string(), "reason": reason, "faults": faults,
        });
        let bytes = serde_json::to_vec_pretty(&note).unwrap_or_default();
        // A name that is too long with the ending is cut where it ends.
        let stem: String = stem
            .chars()
            .take(super::name::NAME_CHARS_MAX - ERROR_SUFFIX.len())
            .collect();
        if let Ok(error) = Name::parse(&format!("{stem}{ERROR_SUFFIX}")) {
            self.place.remove(Sub::Failed, &error).await?;
            self.place.put(Sub::Failed, &error, &bytes).await?;
        }
        for file in others.iter().chain([name]) {
            self.place.shift(from, Sub::Failed, file, self.now).await?;
        }
        self.collected.refused = self.collected.refused.saturating_add(1);
        tracing::warn!(endpoint.id = %self.endpoint.id, reason, "a file was set aside: see the failed folder");
        Ok(())
    }
}

fn too_large(name: &Name) -> Violation {
    Violation::new("file", format!("{name} is larger than may be read"))
}
