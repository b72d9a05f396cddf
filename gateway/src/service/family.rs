//! What families are told: queued with the status that calls for it, decided at each attempt, told by the next way
//! once one failed for good.

use waymark_core::access::Principal;
use waymark_core::audit::{CommitmentTag, EntryKind};
use waymark_core::delivery::{DeliveryState, Evidence, Kind, Next, Outcome, ParkReason, Why};
use waymark_core::error::ErrorKind;
use waymark_core::family::{Ask, FamilyMessage, Notice, Untold, Way, decide};
use waymark_core::id::{EndpointId, LegId, Pathway, ServiceId, WireId};
use waymark_core::leg::LegState;
use waymark_core::personal::Payload;
use waymark_core::port::{
    Channel, DeliveryContent, DeliveryView, EventKind, InboundStatus, IntakeAnswer, Leased,
    NewBody, NewDelivery, NewEvent, RaiseEvidence, ReferralChange, ReferralView, StoreError,
    Undelivered,
};
use waymark_core::referral::Referral;
use waymark_core::time::Timestamp;

use super::draft::{NOTE, VERSION_FACT};
use super::{STALE_RETRIES_MAX, Service, ServiceError, actor_of};
use crate::delivery::SYSTEM_IDENTITY;

/// The purpose under which a referral's content is opened to see whom to write to.
const PURPOSE: &str = "FAMILY_MESSAGE";

/// The code of the news that a message went out and nobody will say more of it.
const NO_MORE_NEWS: &str = "no_more_news";

/// A leg's state that its family may have to be told of.
pub(super) struct Telling<'a> {
    pub(super) leg: LegId,
    pub(super) service: &'a ServiceId,
    pub(super) pathway: &'a Pathway,
    pub(super) state: LegState,
    /// The day by which something happens next, ISO date.
    pub(super) next_action: Option<&'a str>,
    pub(super) version: u64,
    pub(super) urgent: bool,
}

impl Service {
    /// What is queued for the family of a leg that came into a state, where a template is due: it names nobody yet.
    pub(super) fn tell_family(
        &self,
        telling: &Telling<'_>,
        now: Timestamp,
    ) -> Option<(NewBody, NewDelivery)> {
        let in_force = self.in_force();
        let directory = &in_force.directory;
        let today = now.london_date();
        let mut templates = directory.templates.iter();
        let due = templates.find(|t| {
            t.is_due(telling.state, telling.pathway, today)
                && directory.endpoint(&t.endpoint, today).is_some()
        })?;
        let endpoint = directory.endpoint(&due.endpoint, today)?;
        let day = telling.next_action.and_then(|day| day.parse().ok());
        let notice = Notice::of(telling.leg, telling.state, day);
        let draft = self.drafter();
        let body = draft.body(now, NOTE, serde_json::to_vec(&notice).ok()?);
        let id = draft.delivery(now);
        let delivery = NewDelivery {
            id,
            wire_id: WireId::of(id),
            leg: None,
            kind: Kind::Guidance,
            endpoint: endpoint.id.clone(),
            recipient: endpoint.agency.clone(),
            service: Some(telling.service.clone()),
            content: None,
            note: Some(body.id),
            version: telling.version,
            due: now,
            deadline: now.plus(endpoint.deadline),
            urgent: telling.urgent,
            replaces: None,
        };
        Some((body, delivery))
    }

    /// Queues what the families of legs that a change opens, or brings into another state, are told.
    pub(super) fn guide(&self, view: &ReferralView, change: &mut ReferralChange) {
        let moved = change.legs.iter().filter_map(|moved| {
            let leg = view.legs.iter().find(|leg| leg.leg.id == moved.leg)?;
            let next_action = moved.next_action.as_deref();
            // An appointment that is moved keeps its state and has another day: the family is told of that too.
            let news = leg.state != moved.state || leg.next_action != moved.next_action;
            news.then_some((&leg.leg, moved.state, next_action))
        });
        let opened = change.new_legs.iter();
        let opened = opened.map(|leg| (leg, LegState::Submitted, Some(leg.next_action.as_str())));
        let told: Vec<(NewBody, NewDelivery)> = moved
            .chain(opened)
            .filter_map(|(leg, state, next_action)| {
                let telling = Telling {
                    leg: leg.id,
                    service: &leg.service,
                    pathway: &view.pathway,
                    state,
                    next_action,
                    version: view.version + 1,
                    urgent: view.safeguarding,
                };
                self.tell_family(&telling, change.at)
            })
            .collect();
        for (body, delivery) in told {
            change.bodies.push(body);
            change.deliveries.push(delivery);
        }
    }

    /// What a delivery tells the family, decided on the referral as it stands now; the inner error is how the attempt
    /// ends where nobody is written to. Opening the content is in the log first.
    ///
    /// # Errors
    /// The store's own.
    pub(crate) async fn family_message(
        &self,
        leased: &Leased,
        content: &DeliveryContent,
    ) -> Result<Result<FamilyMessage, Outcome>, StoreError> {
        let broken = |what: &str| Outcome::Park {
            reason: ParkReason::Poison,
            why: Why::new("content", format!("the {what} cannot be read: see the log")),
        };
        let Some(notice) = notice_of(content) else {
            return Ok(Err(broken("notice of this delivery")));
        };
        let store = &self.parts.store;
        let view = store.referral(leased.referral).await?;
        let view = view.ok_or(StoreError::NotFound("referral"))?;
        let now = self.now();
        let entry = self
            .drafter()
            .entry_by(
                EntryKind::AdminRead,
                view.stream,
                actor_of(SYSTEM_IDENTITY),
                &leased.recipient,
                now,
            )
            .code("read", "referral")
            .code("purpose", PURPOSE);
        let bytes = store.read_body(view.content, entry).await?;
        let referral = bytes.and_then(|bytes| Referral::from_canonical(bytes.expose()).ok());
        let Some(referral) = referral else {
            return Ok(Err(broken("referral's content")));
        };
        let leg = view.legs.iter().find(|leg| leg.leg.id == notice.leg);
        let in_force = self.in_force();
        let decided = decide(&Ask {
            directory: &in_force.directory,
            day: now.london_date(),
            pathway: &view.pathway,
            service: leased.service.as_ref(),
            standing: leg.map_or(notice.state, |leg| leg.state),
            endpoint: &leased.endpoint,
            reference: &view.reference,
            notice: &notice,
            tried: notice.tried_on(view.content),
            content: &referral,
            withdrawn: &view.withdrawn,
        });
        Ok(decided.map_err(untold))
    }

    /// What takes the place of a message to a family that ended so: told by the next way if one failed for good or was
    /// not sent in time, told anew if what it said is out of date. `None` for every other delivery and end.
    ///
    /// # Errors
    /// The store's own.
    pub(crate) async fn told_next(
        &self,
        leased: &Leased,
        next: &Next,
    ) -> Result<Option<(NewBody, NewDelivery)>, StoreError> {
        if leased.kind != Kind::Guidance {
            return Ok(None);
        }
        let failed = match (next.state, next.parked) {
            (DeliveryState::Rejected, _) | (DeliveryState::Parked, Some(ParkReason::Exhausted)) => {
                true
            }
            // What may have arrived is for a person: they alone know what to say to whom.
            (DeliveryState::Parked, Some(ParkReason::Outdated)) if !uncertain(leased) => false,
            _ => return Ok(None),
        };
        let content = self.parts.store.content(leased).await?;
        let view = self.parts.store.referral(leased.referral).await?;
        Ok(view.and_then(|view| self.next_way(leased, &content, &view, failed)))
    }

    /// The delivery that takes the place of one, by the next way where the last one failed.
    fn next_way(
        &self,
        leased: &Leased,
        content: &DeliveryContent,
        view: &ReferralView,
        failed: bool,
    ) -> Option<(NewBody, NewDelivery)> {
        let notice = notice_of(content)?;
        // Without a way that failed the ladder would not come to an end.
        let way = Way::of_media_type(&content.rendered.as_ref()?.media_type)?;
        let notice = notice.after(failed.then_some(way), view.content);
        let now = self.now();
        let draft = self.drafter();
        let body = draft.body(now, NOTE, serde_json::to_vec(&notice).ok()?);
        let in_force = self.in_force();
        let endpoint = in_force.directory.endpoints.get(&leased.endpoint)?;
        let id = draft.delivery(now);
        let delivery = NewDelivery {
            id,
            wire_id: WireId::of(id),
            leg: None,
            kind: Kind::Guidance,
            endpoint: leased.endpoint.clone(),
            recipient: leased.recipient.clone(),
            service: leased.service.clone(),
            content: None,
            note: Some(body.id),
            version: leased.version,
            due: now,
            deadline: now.plus(endpoint.deadline),
            urgent: leased.urgent,
            replaces: Some(leased.token.delivery),
        };
        Some((body, delivery))
    }

    /// Evidence that the gateway's own adapter brings for a message to a family at an endpoint of its own. `None` for
    /// every other status.
    pub(super) async fn family_evidence(
        &self,
        caller: &Principal,
        channel: &Channel,
        status: &InboundStatus,
        original: &Payload,
    ) -> Result<Option<IntakeAnswer>, ServiceError> {
        let (Channel::Endpoint(id), Some(wire)) = (channel, &status.answers) else {
            return Ok(None);
        };
        let Some(view) = self.family_delivery(id, wire).await? else {
            return Ok(None);
        };
        if status.grade <= Evidence::Sent {
            let answer = self.family_left(caller, &view, status, original).await?;
            return Ok(Some(answer));
        }
        let referral = self.parts.store.referral(view.referral).await?;
        let missing = || ServiceError::new(ErrorKind::NotFound, "NO_SUCH_REFERRAL");
        let referral = referral.ok_or_else(missing)?;
        let better = status.grade > view.evidence;
        self.raise(caller, &referral, status, original.clone())
            .await?;
        Ok(Some(IntakeAnswer {
            referral: view.referral,
            reference: view.reference,
            repeated: !better,
            state: None,
        }))
    }

    /// A message of which nobody will ever say more than that it went out: it waits for nothing any more, and no more is
    /// claimed of it than was.
    async fn family_left(
        &self,
        caller: &Principal,
        view: &DeliveryView,
        status: &InboundStatus,
        original: &Payload,
    ) -> Result<IntakeAnswer, ServiceError> {
        let open = view.state.blocks_lane() && !view.attempts.is_empty();
        if open {
            let (now, draft) = (self.now(), self.drafter());
            let id = view.delivery.id;
            let mut entry = draft
                .entry(EntryKind::Receipt, view.stream, caller, now)
                .code("delivery", id.to_string())
                .code("evidence", status.grade.as_str());
            let opening = draft.commit(&mut entry, CommitmentTag::Answer, original.expose());
            let event = NewEvent {
                delivery: Some(id),
                source: view.delivery.recipient.clone(),
                ..NewEvent::of(&entry, EventKind::Delivery, NO_MORE_NEWS)
            };
            let raise = RaiseEvidence {
                delivery: id,
                grade: status.grade,
                releases_at: status.grade,
                at: now,
                receiver_reference: status.receiver_reference.clone(),
                receipt: Some(draft.body(now, NOTE, original.expose().to_vec())),
                event: Some(event),
                entry,
                openings: vec![opening],
            };
            self.parts.store.raise_evidence(raise).await?;
        }
        Ok(IntakeAnswer {
            referral: view.referral,
            reference: view.reference.clone(),
            repeated: !open,
            state: None,
        })
    }

    async fn family_delivery(
        &self,
        endpoint: &EndpointId,
        wire: &str,
    ) -> Result<Option<DeliveryView>, ServiceError> {
        let Ok(wire) = wire.parse() else {
            return Ok(None);
        };
        let view = self.parts.store.delivery_by_wire_id(&wire).await?;
        Ok(view.filter(|view| {
            view.delivery.kind == Kind::Guidance && view.delivery.endpoint == *endpoint
        }))
    }

    /// A message to a family that did not arrive after all: the next way takes its place, in one transaction. What
    /// something took the place of already, or was withheld, stays as it is.
    ///
    /// # Errors
    /// `Unavailable` while an attempt of it is under way: the news is asked for again.
    pub(super) async fn family_undelivered(
        &self,
        caller: &Principal,
        view: DeliveryView,
        undelivered: &Undelivered,
    ) -> Result<IntakeAnswer, ServiceError> {
        let answer = IntakeAnswer {
            referral: view.referral,
            reference: view.reference.clone(),
            repeated: true,
            state: None,
        };
        if !view.state.blocks_lane() {
            return Ok(answer);
        }
        let store = &self.parts.store;
        let leased = view.leased(0);
        let content = store.content(&leased).await?;
        if content.rendered.is_none() {
            return Ok(answer);
        }
        for _ in 0..STALE_RETRIES_MAX {
            let Some(referral) = store.referral(view.referral).await? else {
                break;
            };
            let Some(next) = self.next_way(&leased, &content, &referral, true) else {
                break;
            };
            let change = self.failed_change(caller, &view, &referral, next, undelivered);
            match store.change(change).await {
                Ok(_) => {
                    return Ok(IntakeAnswer {
                        repeated: false,
                        ..answer
                    });
                }
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let changed = "CHANGED_MEANWHILE";
        Err(ServiceError::new(ErrorKind::Unavailable, changed))
    }

    fn failed_change(
        &self,
        caller: &Principal,
        view: &DeliveryView,
        referral: &ReferralView,
        (body, next): (NewBody, NewDelivery),
        undelivered: &Undelivered,
    ) -> ReferralChange {
        let draft = self.drafter();
        let id = view.delivery.id;
        let mut entry = draft
            .entry(EntryKind::Receipt, view.stream, caller, self.now())
            .code("delivery", id.to_string())
            .code("outcome", "undelivered")
            .code("why", &undelivered.why.code)
            .code("replaced_by", next.id.to_string())
            .code(VERSION_FACT, (referral.version + 1).to_string());
        let words = serde_json::Value::from(undelivered.why.text.as_str()).to_string();
        let opening = draft.commit(&mut entry, CommitmentTag::Answer, words.as_bytes());
        let note = draft.body(entry.at, NOTE, words.into_bytes());
        let event = NewEvent {
            delivery: Some(id),
            source: view.delivery.recipient.clone(),
            text: Some(note.id),
            ..NewEvent::of(&entry, EventKind::Delivery, undelivered.why.code.clone())
        };
        let overdue = waymark_core::alarm::AlarmKind::EvidenceOverdue;
        ReferralChange {
            bodies: vec![note, body],
            deliveries: vec![next],
            supersede: vec![id],
            resolve: vec![(overdue, id.to_string())],
            openings: vec![opening],
            ..ReferralChange::of((referral.id, referral.version), event, entry)
        }
    }
}

fn notice_of(content: &DeliveryContent) -> Option<Notice> {
    serde_json::from_slice(content.note.as_ref()?.expose()).ok()
}

/// Whether bytes of an earlier attempt may have arrived.
pub(crate) const fn uncertain(leased: &Leased) -> bool {
    matches!(
        leased.state,
        DeliveryState::Unknown | DeliveryState::Attempting
    ) && leased.attempts > 0
}

/// How an attempt ends where nobody is written to: withheld, or left to a person.
fn untold(why: Untold) -> Outcome {
    let reason = Why::new(why.code(), why.to_string());
    if why.needs_a_person() {
        Outcome::Park {
            reason: ParkReason::NoContact,
            why: reason,
        }
    } else {
        Outcome::Withheld { why: reason }
    }
}
