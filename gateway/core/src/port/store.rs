//! What the gateway asks of a store: each method is one atomic business step; no transaction crosses the trait.

use async_trait::async_trait;
use waymark_tlog::TileId;
use waymark_tlog::note::SigningKey;

use super::AsksAfter;
use crate::alarm::{Alarm, AlarmKind, NewAlarm};
use crate::delivery::{DeliveryState, Evidence, Kind, ParkReason, Why};
use crate::error::ErrorKind;
use crate::id::{
    AgencyId, BodyId, DeliveryId, DocumentId, EndpointId, EventId, LaneId, LegId, Pathway,
    Reference, ReferralId, RuleId, ServiceId, StreamId, WireId, WorkerId,
};
use crate::leg::{LegState, Owner, Reception};
use crate::personal::{Payload, Personal};
use crate::referral::{Priority, SenderReference};
use crate::time::Timestamp;

mod accept;
mod document;
mod work;

pub use accept::*;
pub use document::*;
pub use work::*;

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The thing changed since it was read: read it again and decide again.
    #[error("changed since it was read")]
    Stale,
    /// Another worker holds the lease now.
    #[error("the lease was lost")]
    LeaseLost,
    /// The same key came before with other content.
    #[error("{key:?} was used before with other content")]
    Conflict {
        /// Which key.
        key: ConflictKey,
        /// The referral that holds it, or the document, by the bytes of its id.
        existing: ReferralId,
    },
    /// A document named by a referral is not there, not the sender's, or not as described.
    #[error("document {0} is not held as described")]
    Document(DocumentId),
    /// There is no such thing.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// A named limit was reached.
    #[error("{limit} was reached")]
    Exhausted {
        /// The limit.
        limit: &'static str,
    },
    /// A passing fault, the outcome of a commit included: the same call is safe to repeat.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row does not decode.
    #[error("row {row} of {table} does not decode in {column}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key.
        row: String,
    },
    /// The database refused a statement, or a key could not be used: a defect.
    #[error("the store failed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The limit of [`StoreError::Exhausted`] while the disk is low.
pub const LOW_DISK: &str = "free_disk_min";

impl StoreError {
    /// The kind that a caller may see.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Stale | Self::LeaseLost => ErrorKind::Precondition,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Document(_) => ErrorKind::Invalid,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Exhausted { .. } => ErrorKind::Exhausted,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }
}

/// The key of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKey {
    /// The message key.
    Message,
    /// The sender's referral reference.
    Reference,
}

/// How to find a referral.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferralKey {
    /// By the reference that the gateway gave.
    Reference(Reference),
    /// By the sender's own reference.
    Sender(AgencyId, SenderReference),
    /// By the wire id of one of its deliveries.
    Wire(WireId),
    /// By the receiver's own reference, as it gave it in evidence or status.
    Receiver(AgencyId, String),
    /// By one of its events.
    Event(EventId),
    /// By the key of the sender's message that it was accepted by, as [`MessageKey::key`] has it.
    Message(AgencyId, Personal<String>),
}

/// Accepting, changing and reading referrals.
#[async_trait]
pub trait ReferralStore: Send + Sync {
    /// Accepts a referral: one durable transaction, shared with others that wait (group commit).
    async fn accept(&self, accept: Accept) -> Result<Accepted, StoreError>;
    /// Applies one change to a referral, if it is still at the version that the change was decided on.
    async fn change(&self, change: ReferralChange) -> Result<Changed, StoreError>;
    /// The event that the same message made before, as a change of this referral.
    async fn answered(
        &self,
        key: &MessageKey,
        referral: ReferralId,
    ) -> Result<Option<EventId>, StoreError>;
    /// A referral without its content.
    async fn referral(&self, id: ReferralId) -> Result<Option<ReferralView>, StoreError>;
    /// The referral behind a key.
    async fn resolve(&self, key: &ReferralKey) -> Result<Option<ReferralId>, StoreError>;
    /// Whether what a child is matched by is known as another child's than the referral's.
    async fn names_another(
        &self,
        referral: ReferralId,
        child: &SubjectKey,
    ) -> Result<bool, StoreError>;
    /// Whether (source, version) of a leg came before.
    async fn status_seen(
        &self,
        leg: LegId,
        source: &AgencyId,
        version: u64,
    ) -> Result<bool, StoreError>;
    /// Opens a body; the entry is committed first.
    async fn read_body(
        &self,
        body: BodyId,
        entry: crate::audit::EntryDraft,
    ) -> Result<Option<Payload>, StoreError>;
    /// Referrals that an agency sent or receives, newest first.
    async fn list(&self, query: &ReferralQuery) -> Result<Vec<ReferralView>, StoreError>;
    /// A referral's events in order, at most `limit`.
    async fn timeline(
        &self,
        referral: ReferralId,
        limit: u32,
    ) -> Result<Vec<EventView>, StoreError>;
    /// Events after a log index, for one agency, within one window of the log.
    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage, StoreError>;
    /// Keeps a document, once for each message key.
    async fn put_document(&self, document: NewDocument) -> Result<Uploaded, StoreError>;
    /// A document's description.
    async fn document(&self, id: DocumentId) -> Result<Option<DocumentView>, StoreError>;
}

/// Leasing, attempting and finishing deliveries.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// Endpoints that have a due lane, of fresh or of retried work.
    async fn due_endpoints(
        &self,
        class: WorkClass,
        now: Timestamp,
    ) -> Result<Vec<EndpointId>, StoreError>;
    /// Leases heads of due lanes of one endpoint.
    async fn lease(&self, ask: &LeaseAsk) -> Result<Vec<Leased>, StoreError>;
    /// What a leased delivery says: content, note, and the rendered bytes once there are any.
    async fn content(&self, leased: &Leased) -> Result<DeliveryContent, StoreError>;
    /// The bytes of a document that went with the leased delivery's referral; `None` when it is not that referral's,
    /// or its keys were destroyed.
    async fn attachment(
        &self,
        leased: &Leased,
        document: DocumentId,
    ) -> Result<Option<Payload>, StoreError>;
    /// Opens an attempt and, on the first, stores its bytes. `Err(LeaseLost)` if another worker took over.
    async fn open_attempt(&self, open: OpenAttempt) -> Result<(), StoreError>;
    /// Records how an attempt ended and where the delivery goes. `Err(LeaseLost)` if another worker took over.
    async fn close_attempt(&self, close: CloseAttempt) -> Result<(), StoreError>;
    /// Keeps leases for longer; answers those still held.
    async fn renew(
        &self,
        leases: &[LeaseToken],
        until: Timestamp,
    ) -> Result<Vec<DeliveryId>, StoreError>;
    /// Gives a lease back unused, due again at `due` (`None`: at once, keeping its state).
    async fn release(&self, token: &LeaseToken, due: Timestamp) -> Result<(), StoreError>;
    /// Records better evidence for a delivery that is not, or no longer, leased.
    async fn raise_evidence(&self, raise: RaiseEvidence) -> Result<(), StoreError>;
    /// Parks a delivery that has no open attempt, or resumes a parked one.
    async fn operate(&self, operation: Operation) -> Result<(), StoreError>;
    /// One delivery with its attempts.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryView>, StoreError>;
    /// A delivery by its wire id.
    async fn delivery_by_wire_id(&self, id: &WireId) -> Result<Option<DeliveryView>, StoreError>;
    /// Deliveries, oldest first.
    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Vec<DeliveryView>, StoreError>;
    /// One page of what was sent to an endpoint and may have news, newest first, at most `limit` of them.
    async fn sent(
        &self,
        endpoint: &EndpointId,
        which: AsksAfter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<SentPage, StoreError>;
    /// Deliveries that await evidence past their clock, urgent ones held behind another, and what lies in one of these
    /// mailboxes since before its instant and was not taken: what to alarm.
    async fn overdue(
        &self,
        now: Timestamp,
        mailboxes: &[(EndpointId, Timestamp)],
        limit: u32,
    ) -> Result<Vec<NewAlarm>, StoreError>;
    /// Resolves once this process has committed new work; a poll stays the fallback.
    async fn work_added(&self);
}

/// Directory releases.
#[async_trait]
pub trait DirectoryStore: Send + Sync {
    /// The newest release.
    async fn latest_release(&self) -> Result<Option<Release>, StoreError>;
    /// The newest release's number, cheaply.
    async fn latest_release_number(&self) -> Result<Option<u64>, StoreError>;
    /// One release.
    async fn release_by_number(&self, number: u64) -> Result<Option<Release>, StoreError>;
    /// Makes a release, if `expected` is still the newest.
    async fn apply_release(&self, release: NewRelease) -> Result<u64, StoreError>;
    /// Releases without their text, newest first.
    async fn releases(&self, limit: u32) -> Result<Vec<Release>, StoreError>;
}

/// The delivery log.
#[async_trait]
pub trait LogStore: Send + Sync {
    /// One sequencer round: moves at most `max` outbox rows into the tree and signs a checkpoint.
    async fn sequence(
        &self,
        key: &SigningKey,
        max: u32,
        at: Timestamp,
    ) -> Result<Round, StoreError>;
    /// Writes an entry of its own, about an act that changes nothing that is stored.
    async fn append(&self, entry: crate::audit::EntryDraft) -> Result<(), StoreError>;
    /// Size, root and newest checkpoint.
    async fn log_state(&self) -> Result<LogState, StoreError>;
    /// Where an event stands in the log, once sequenced.
    async fn log_index(&self, event: EventId) -> Result<Option<u64>, StoreError>;
    /// The bytes of an event's entry, sequenced or not.
    async fn entry_of(&self, event: EventId) -> Result<Option<Vec<u8>>, StoreError>;
    /// Entries from an index, at most `limit`.
    async fn entries(&self, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    /// Tiles, as wide as they are now.
    async fn tiles(&self, ids: &[TileId]) -> Result<Vec<(TileId, Vec<u8>)>, StoreError>;
    /// The checkpoint of a size.
    async fn checkpoint(&self, size: u64) -> Result<Option<SignedCheckpoint>, StoreError>;
    /// Checkpoints after a size, in order, at most `limit`.
    async fn checkpoints(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<SignedCheckpoint>, StoreError>;
    /// Salts of an event's commitments.
    async fn openings(&self, event: EventId) -> Result<Vec<Opening>, StoreError>;
}

/// Alarms, checks and upkeep.
#[async_trait]
pub trait UpkeepStore: Send + Sync {
    /// Opens an alarm; does nothing while one of the same kind and subject is open. Answers whether it is new.
    async fn raise_alarm(&self, alarm: &NewAlarm, at: Timestamp) -> Result<bool, StoreError>;
    /// Resolves an alarm, if open.
    async fn resolve_alarm(
        &self,
        kind: AlarmKind,
        subject: &str,
        at: Timestamp,
    ) -> Result<(), StoreError>;
    /// Alarms, open ones first, newest first.
    async fn alarms(&self, open_only: OpenOnly, limit: u32) -> Result<Vec<Alarm>, StoreError>;
    /// The counters that every transition keeps.
    async fn counters(&self) -> Result<Counters, StoreError>;
    /// Checks one page of referrals after `after`, oldest first.
    async fn check_page(
        &self,
        after: Option<ReferralId>,
        limit: u32,
    ) -> Result<CheckPage, StoreError>;
    /// Depth and oldest age of work, by endpoint.
    async fn backlog(&self) -> Result<Vec<Backlog>, StoreError>;
    /// Rows waiting for the sequencer, and the oldest one's age in ms at `now`.
    async fn outbox(&self, now: Timestamp) -> Result<(u64, u64), StoreError>;
    /// Makes partitions ahead, checkpoints the write-ahead log, prunes message keys past their window, and wraps keys of
    /// children that lie under an older epoch by the newest one.
    async fn upkeep(&self, now: Timestamp) -> Result<(), StoreError>;
    /// How the disk stands that the database is on, looked at now; `None` where that is another machine's matter. While
    /// it is low nothing new is accepted, and what was accepted goes on.
    fn disk(&self) -> Option<Disk>;
    /// How many children's keys lie under which epoch of the keyring. Reads all of them: for an operator, not for a loop.
    async fn key_epochs(&self) -> Result<KeyEpochs, StoreError>;
    /// The newest epoch of this process' keyring.
    fn key_epoch(&self) -> u32;
    /// Notes that the keyring's newest epoch is in use, with its entry; does nothing where that was noted before.
    async fn take_key_epoch(&self, entry: crate::audit::EntryDraft) -> Result<bool, StoreError>;
    /// Documents that were uploaded before a time and that no referral took, oldest first.
    async fn untaken_documents(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(DocumentId, StreamId)>, StoreError>;
    /// Destroys a document that no referral took, with its keys; answers `false` where one took it meanwhile.
    async fn forget_document(
        &self,
        id: DocumentId,
        entry: crate::audit::EntryDraft,
    ) -> Result<bool, StoreError>;
    /// Answers when the database does.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// Everything that the gateway asks of a store.
pub trait Store: ReferralStore + DeliveryStore + DirectoryStore + LogStore + UpkeepStore {}

impl<T: ReferralStore + DeliveryStore + DirectoryStore + LogStore + UpkeepStore> Store for T {}
