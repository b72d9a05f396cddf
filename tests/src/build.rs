//! Builders that take only what matters to a test; ids and times are drawn from a seeded counter.

use waymark_core::audit::{Commitment, CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::{DeliveryState, Evidence, Kind, Next};
use waymark_core::id::{
    AgencyId, BodyId, DeliveryId, EndpointId, EventId, LegId, Reference, ReferralId, StreamId,
    WireId, WorkerId,
};
use waymark_core::leg::Owner;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    Accept, CloseAttempt, EventKind, LeaseAsk, LeaseToken, Leased, MessageKey, NewBody,
    NewDelivery, NewEvent, NewLeg, OpenAttempt, Opening, ReferralChange, ReferralView, Rendered,
    SubjectKey, WorkClass,
};
use waymark_core::referral::{Priority, SenderReference};
use waymark_core::time::Timestamp;

/// The first instant of every test: 2026-11-23T09:00:00Z.
pub const START: Timestamp = Timestamp::from_ms(1_795_424_400_000);

/// Makes things, each different from the one before and the same in every run.
#[derive(Debug)]
pub struct Maker {
    next: u64,
    /// Now.
    pub now: Timestamp,
}

impl Default for Maker {
    fn default() -> Self {
        Self {
            next: 1,
            now: START,
        }
    }
}

fn parsed<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a test's own id is well-formed")
}

/// An agency by id.
pub fn agency(id: &str) -> AgencyId {
    parsed(id)
}

/// An endpoint by id.
pub fn endpoint(id: &str) -> EndpointId {
    parsed(id)
}

impl Maker {
    /// Sixteen bytes in the shape of a `UUIDv7` of now.
    pub fn bytes(&mut self) -> [u8; 16] {
        let n = self.next;
        self.next += 1;
        let ms = u64::try_from(self.now.as_ms()).unwrap_or(0).to_be_bytes();
        let count = n.to_be_bytes();
        let mut out = [0u8; 16];
        for (slot, byte) in out.iter_mut().zip(
            ms.into_iter()
                .skip(2)
                .chain([0x70, 0, 0x80, 0])
                .chain(count.into_iter().skip(2)),
        ) {
            *slot = byte;
        }
        out
    }

    /// Time moves on.
    pub fn later(&mut self, ms: u64) {
        self.now = self.now.plus(std::time::Duration::from_millis(ms));
    }

    /// A draft in a stream.
    pub fn entry(&mut self, kind: EntryKind, stream: StreamId) -> EntryDraft {
        EntryDraft {
            kind,
            event: EventId::from_bytes(self.bytes()),
            at: self.now,
            stream,
            actor: [7; 16],
            org: agency("EE123456"),
            codes: Vec::new(),
            commitments: Vec::new(),
            reference: None,
        }
    }

    /// A body.
    pub fn body(&mut self, text: &str) -> NewBody {
        NewBody {
            id: BodyId::from_bytes(self.bytes()),
            media_type: "application/json".to_owned(),
            bytes: Payload::new(text.as_bytes().to_vec()),
        }
    }

    /// A referral under a message key, with one leg and delivery to each endpoint.
    pub fn accept(&mut self, key: &str, content: &str, endpoints: &[&str]) -> Accept {
        let stream = StreamId::from_bytes(self.bytes());
        let id = ReferralId::from_bytes(self.bytes());
        let mut entry = self.entry(EntryKind::Accepted, stream);
        let salt = [9; 32];
        entry.commitments.push(Commitment::to(
            CommitmentTag::Payload,
            &salt,
            content.as_bytes(),
        ));
        let body = self.body(content);
        let mut legs = Vec::new();
        let mut deliveries = Vec::new();
        for name in endpoints {
            let leg = LegId::from_bytes(self.bytes());
            legs.push(self.leg(leg, name));
            deliveries.push(self.delivery(Some(leg), Kind::New, name, Some(body.id)));
        }
        Accept {
            at: self.now,
            event: entry.event,
            referral: id,
            reference: Reference::of(id),
            stream,
            sender: agency("EE123456"),
            message_key: MessageKey {
                sender: agency("EE123456"),
                key: Personal::new(format!("grpc:{key}")),
                content: Payload::new(content.as_bytes().to_vec()),
            },
            sender_reference: None,
            subject: SubjectKey::New,
            likeness: None,
            body,
            original: None,
            conversation: None,
            notes: Vec::new(),
            pathway: parsed("autism-assessment"),
            priority: Priority::Routine,
            safeguarding: false,
            release: 1,
            legs,
            deliveries,
            documents: Vec::new(),
            alarms: Vec::new(),
            entry,
            openings: vec![Opening {
                tag: CommitmentTag::Payload,
                salt,
            }],
            traceparent: None,
        }
    }

    fn leg(&mut self, id: LegId, endpoint: &str) -> NewLeg {
        NewLeg {
            id,
            service: parsed(&format!("service-{endpoint}")),
            agency: agency("R1L"),
            rule: Some(parsed("rule-1")),
            triage: None,
            owner: Owner {
                agency: agency("R1L"),
                role: "coordinator".to_owned(),
            },
            clock: "TRIAGE".to_owned(),
            clock_started: self.now,
            next_action: "2026-12-07".to_owned(),
        }
    }

    /// A delivery.
    pub fn delivery(
        &mut self,
        leg: Option<LegId>,
        kind: Kind,
        endpoint_id: &str,
        content: Option<BodyId>,
    ) -> NewDelivery {
        let id = DeliveryId::from_bytes(self.bytes());
        NewDelivery {
            id,
            wire_id: WireId::of(id),
            leg,
            kind,
            endpoint: endpoint(endpoint_id),
            recipient: agency("R1L"),
            service: None,
            content,
            note: None,
            version: 1,
            due: self.now,
            deadline: self.now.plus(std::time::Duration::from_hours(72)),
            urgent: false,
            replaces: None,
        }
    }

    /// A change that does nothing but say so.
    pub fn change(&mut self, view: &ReferralView) -> ReferralChange {
        let entry = self.entry(EntryKind::Status, view.stream);
        let event = NewEvent {
            source: agency("R1L"),
            ..NewEvent::of(&entry, EventKind::Status, "test")
        };
        ReferralChange::of((view.id, view.version), event, entry)
    }

    /// A request for fresh work.
    pub fn ask(&mut self, endpoint_id: &str, class: WorkClass, limit: u32) -> LeaseAsk {
        LeaseAsk {
            worker: WorkerId::from_bytes(self.bytes()),
            endpoint: endpoint(endpoint_id),
            class,
            services: Vec::new(),
            limit,
            now: self.now,
            until: self.now.plus(std::time::Duration::from_secs(20)),
        }
    }

    /// The opening of a leased delivery's next attempt.
    pub fn open(&mut self, leased: &Leased, bytes: &str) -> OpenAttempt {
        let entry = self.entry(EntryKind::Attempt, leased.stream);
        let id = BodyId::from_bytes(self.bytes());
        let rendered = Rendered {
            media_type: "text/plain".to_owned(),
            bytes: Payload::new(bytes.as_bytes().to_vec()),
        };
        OpenAttempt {
            token: leased.token.clone(),
            number: leased.attempts + 1,
            at: self.now,
            rendered: (leased.attempts == 0).then_some((id, rendered)),
            entry,
            openings: Vec::new(),
        }
    }

    /// The end of an attempt.
    pub fn close(
        &mut self,
        leased: &Leased,
        state: DeliveryState,
        evidence: Evidence,
        due: Option<Timestamp>,
    ) -> CloseAttempt {
        let entry = self.entry(EntryKind::Attempt, leased.stream);
        CloseAttempt {
            token: LeaseToken {
                ..leased.token.clone()
            },
            number: leased.attempts + 1,
            at: self.now,
            next: Next {
                state,
                evidence,
                due,
                parked: None,
                failures: 0,
                soft_rejects: 0,
            },
            outcome: "test",
            why: None,
            fault: None,
            evidence_due: None,
            receiver_reference: None,
            receipt: None,
            reopen: None,
            event: None,
            tell: None,
            alarms: Vec::new(),
            resolve: Vec::new(),
            entry,
            openings: Vec::new(),
        }
    }
}

/// A sender's reference.
pub fn sender_reference(value: &str) -> SenderReference {
    SenderReference {
        value: value.to_owned(),
        namespace: "EPIC".to_owned(),
    }
}
