//! Receipts: what proves that a message was durably taken, and what opens its entry's commitments.

use std::time::Duration;

use waymark_adapters::grpc::convert::timestamp_to_proto;
use waymark_core::audit::{Commitment, CommitmentTag, LogEntry, leaf_hash};
use waymark_core::error::ErrorKind;
use waymark_core::id::EventId;
use waymark_core::port::{Accepted, Opening, ReferralView};
use waymark_proto::v1;

use super::face::Face;
use super::write::service_of;
use crate::service::{ServiceError, VERSION_FACT};

/// The longest wait for a proof (ruling 15).
const PROOF_WAIT: Duration = Duration::from_secs(2);

/// Whether a caller waits for a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proven {
    /// It does, at most [`PROOF_WAIT`].
    Wanted,
    /// It does not.
    NotWanted,
}

impl From<bool> for Proven {
    fn from(want_proof: bool) -> Self {
        if want_proof {
            Self::Wanted
        } else {
            Self::NotWanted
        }
    }
}

/// The receipt of an accept. `content` is what the caller's message committed to, as far as it is at hand.
pub(super) async fn of_accept(
    face: &Face,
    accepted: Accepted,
    content: Option<&[u8]>,
    proven: Proven,
) -> Result<v1::Receipt, ServiceError> {
    let legs = accepted.legs.iter().map(|leg| v1::ReceiptLeg {
        leg_id: leg.id.to_string(),
        service_id: service_of(leg.triage.as_deref(), leg.service.as_str()),
        agency_id: leg.agency.to_string(),
        rule_id: leg
            .rule
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    });
    let shown = if proven == Proven::Wanted {
        content
    } else {
        None
    };
    Ok(v1::Receipt {
        referral_id: accepted.referral.to_string(),
        reference: accepted.reference.to_string(),
        event_id: accepted.event.to_string(),
        stream_id: accepted.stream.as_bytes().to_vec(),
        leaf_hash: accepted.leaf.to_vec(),
        accepted_at: Some(timestamp_to_proto(accepted.at)),
        directory_release: accepted.release,
        legs: legs.collect(),
        duplicate: accepted.repeated,
        openings: openings(&accepted.openings, &accepted.entry, shown),
        tlog_proof: proof(face, accepted.event, proven).await?,
        entry: accepted.entry,
        version: 1,
    })
}

/// The receipt of a later event of a referral, which the caller may see.
pub(super) async fn of_event(
    face: &Face,
    view: &ReferralView,
    event: EventId,
    repeated: bool,
    content: Option<&[u8]>,
    proven: Proven,
) -> Result<v1::Receipt, ServiceError> {
    let store = face.service.store();
    let gone = || ServiceError::new(ErrorKind::Corrupt, "STORED_DATA_CORRUPT");
    let entry = store.entry_of(event).await?.ok_or_else(gone)?;
    let said = LogEntry::decode(&entry).map_err(|_| gone())?;
    // As it was at the event, and not as it has become since.
    let version = said.fact(VERSION_FACT).and_then(|text| text.parse().ok());
    let salts = store.openings(event).await?;
    let legs = view.legs.iter().map(|leg| v1::ReceiptLeg {
        leg_id: leg.leg.id.to_string(),
        service_id: service_of(leg.leg.triage.as_deref(), leg.leg.service.as_str()),
        agency_id: leg.leg.agency.to_string(),
        rule_id: leg
            .leg
            .rule
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    });
    let shown = if proven == Proven::Wanted {
        content
    } else {
        None
    };
    Ok(v1::Receipt {
        referral_id: view.id.to_string(),
        reference: view.reference.to_string(),
        event_id: event.to_string(),
        stream_id: view.stream.as_bytes().to_vec(),
        leaf_hash: leaf_hash(&entry).to_vec(),
        accepted_at: Some(timestamp_to_proto(said.at)),
        directory_release: view.release,
        legs: legs.collect(),
        duplicate: repeated,
        openings: openings(&salts, &entry, shown),
        tlog_proof: proof(face, event, proven).await?,
        entry,
        version: version.unwrap_or(view.version),
    })
}

async fn proof(face: &Face, event: EventId, proven: Proven) -> Result<Vec<u8>, ServiceError> {
    if proven == Proven::NotWanted {
        return Ok(Vec::new());
    }
    let proof = face.service.proof(event, PROOF_WAIT).await?;
    Ok(proof.map(|proof| proof.tlog_proof).unwrap_or_default())
}

/// What opens an entry's commitments. Content is shown only where it is what was committed to.
fn openings(salts: &[Opening], entry: &[u8], content: Option<&[u8]>) -> Vec<v1::Opening> {
    let committed = LogEntry::decode(entry)
        .map(|entry| entry.commitments)
        .unwrap_or_default();
    let opens = |opening: &Opening, bytes: &[u8]| {
        committed.contains(&Commitment::to(opening.tag, &opening.salt, bytes))
    };
    salts
        .iter()
        .map(|opening| v1::Opening {
            tag: tag(opening.tag).into(),
            salt: opening.salt.to_vec(),
            content: content
                .filter(|bytes| opens(opening, bytes))
                .unwrap_or_default()
                .to_vec(),
        })
        .collect()
}

const fn tag(tag: CommitmentTag) -> v1::CommitmentTag {
    match tag {
        CommitmentTag::Payload => v1::CommitmentTag::Payload,
        CommitmentTag::Rendered => v1::CommitmentTag::Rendered,
        CommitmentTag::Answer => v1::CommitmentTag::Answer,
        CommitmentTag::RoutingInputs => v1::CommitmentTag::RoutingInputs,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use waymark_core::audit::{EntryDraft, EntryKind};
    use waymark_core::id::StreamId;
    use waymark_core::time::Timestamp;

    use super::*;

    #[test]
    fn an_opening_opens_its_commitment_as_the_contract_says() {
        let salt = [7; 32];
        let content = b"the content";
        let draft = EntryDraft {
            kind: EntryKind::Accepted,
            event: EventId::from_bytes([1; 16]),
            at: Timestamp::from_ms(1),
            stream: StreamId::from_bytes([2; 16]),
            actor: [3; 16],
            org: "EE123456".parse().unwrap(),
            codes: Vec::new(),
            commitments: vec![Commitment::to(CommitmentTag::Payload, &salt, content)],
            reference: None,
        };
        let entry = draft.placed(0, None).encode();
        let salts = [Opening {
            tag: CommitmentTag::Payload,
            salt,
        }];
        let opened = openings(&salts, &entry, Some(content));
        // Commitment = SHA-256("waymark/commit/v1" || 0x00 || tag, as one byte || salt || content), in the contract's words.
        let mut input = b"waymark/commit/v1\0".to_vec();
        input.push(u8::try_from(opened[0].tag).unwrap());
        input.extend_from_slice(&opened[0].salt);
        input.extend_from_slice(&opened[0].content);
        let committed = LogEntry::decode(&entry).unwrap().commitments[0].hash;
        assert_eq!(digest(&SHA256, &input).as_ref(), committed);

        for known in [
            CommitmentTag::Payload,
            CommitmentTag::Rendered,
            CommitmentTag::Answer,
            CommitmentTag::RoutingInputs,
        ] {
            let shown = u32::try_from(i32::from(tag(known))).unwrap();
            assert_eq!(shown, known.number(), "the number shown is the byte hashed");
        }

        assert!(
            openings(&salts, &entry, Some(b"other"))[0]
                .content
                .is_empty(),
            "only what was committed to"
        );
        assert!(openings(&salts, &entry, None)[0].content.is_empty());
    }
}
