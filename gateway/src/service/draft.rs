//! Drafts of log entries and bodies: the one place where ids, salts and commitments are drawn.

use aws_lc_rs::digest::{SHA256, digest};
use waymark_core::access::Principal;
use waymark_core::audit::{Commitment, CommitmentTag, EntryDraft, EntryKind};
use waymark_core::id::{
    AgencyId, BodyId, DeliveryId, DocumentId, EventId, LegId, ReferralId, StreamId,
};
use waymark_core::personal::Payload;
use waymark_core::port::{NewBody, Opening};
use waymark_core::time::Timestamp;

use crate::clock::{Random, salt, uuid_v7};

/// The media type of canonical content.
pub(crate) const CANONICAL: &str = "application/vnd.waymark.referral+json";
/// The media type of words, reasons and notices.
pub(crate) const NOTE: &str = "application/json";

/// The fact of an entry that says which version of its referral it made.
pub(crate) const VERSION_FACT: &str = "version";

/// The id that stands for an identity of the directory in the delivery log. Identities name systems, not people.
pub fn actor_of(identity: &str) -> [u8; 16] {
    let mut input = b"waymark/actor/v1\0".to_vec();
    input.extend_from_slice(identity.as_bytes());
    let mut out = [0u8; 16];
    for (slot, byte) in out.iter_mut().zip(digest(&SHA256, &input).as_ref()) {
        *slot = *byte;
    }
    out
}

/// Draws ids and drafts.
pub struct Drafter<'a> {
    random: &'a dyn Random,
}

impl<'a> Drafter<'a> {
    /// Draws from a source.
    pub const fn new(random: &'a dyn Random) -> Self {
        Self { random }
    }

    /// A new referral's id.
    pub fn referral(&self, at: Timestamp) -> ReferralId {
        ReferralId::from_uuid(uuid_v7(self.random, at))
    }

    /// A new event's id.
    pub fn event(&self, at: Timestamp) -> EventId {
        EventId::from_uuid(uuid_v7(self.random, at))
    }

    /// A new leg's id.
    pub fn leg(&self, at: Timestamp) -> LegId {
        LegId::from_uuid(uuid_v7(self.random, at))
    }

    /// A new delivery's id.
    pub fn delivery(&self, at: Timestamp) -> DeliveryId {
        DeliveryId::from_uuid(uuid_v7(self.random, at))
    }

    /// A new document's id.
    pub fn document(&self, at: Timestamp) -> DocumentId {
        DocumentId::from_uuid(uuid_v7(self.random, at))
    }

    /// A new body's id.
    pub fn body_id(&self, at: Timestamp) -> BodyId {
        BodyId::from_uuid(uuid_v7(self.random, at))
    }

    /// A new stream.
    pub fn stream(&self, at: Timestamp) -> StreamId {
        StreamId::from_uuid(uuid_v7(self.random, at))
    }

    /// A body to seal.
    pub fn body(&self, at: Timestamp, media_type: &str, bytes: Vec<u8>) -> NewBody {
        NewBody {
            id: self.body_id(at),
            media_type: media_type.to_owned(),
            bytes: Payload::new(bytes),
        }
    }

    /// An entry for somebody of the directory.
    pub fn entry(
        &self,
        kind: EntryKind,
        stream: StreamId,
        who: &Principal,
        at: Timestamp,
    ) -> EntryDraft {
        self.entry_by(kind, stream, who.actor, &who.agency, at)
    }

    /// An entry for an actor and agency.
    pub fn entry_by(
        &self,
        kind: EntryKind,
        stream: StreamId,
        actor: [u8; 16],
        org: &AgencyId,
        at: Timestamp,
    ) -> EntryDraft {
        EntryDraft {
            kind,
            event: self.event(at),
            at,
            stream,
            actor,
            org: org.clone(),
            codes: Vec::new(),
            commitments: Vec::new(),
            reference: None,
        }
    }

    /// Commits an entry to bytes, with a fresh salt that is kept apart.
    pub fn commit(&self, entry: &mut EntryDraft, tag: CommitmentTag, bytes: &[u8]) -> Opening {
        let salt = salt(self.random);
        entry.commitments.push(Commitment::to(tag, &salt, bytes));
        Opening { tag, salt }
    }
}
