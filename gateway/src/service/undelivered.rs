//! News from the far side that a delivery did not arrive after all: a MESH report, a bounced message, a folder of
//! what was refused.

use waymark_core::access::Principal;
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::{DeliveryState, Kind};
use waymark_core::error::ErrorKind;
use waymark_core::leg::{LegState, Owner};
use waymark_core::personal::Payload;
use waymark_core::port::{
    Act, Channel, DeliveryView, EventKind, IntakeAnswer, MessageKey, NewBody, NewDelivery,
    NewEvent, Opening, Operation, ReferralChange, StatusNotice, StoreError, Undelivered,
};

use super::draft::NOTE;
use super::{Service, ServiceError, Telling, tell_sender};

impl Service {
    /// Parks a delivery that did not arrive after all, alarms its owner and tells its sender. One that had ended
    /// already stays as it is, and all the rest is done all the same: somebody was told that it had arrived.
    pub(super) async fn undelivered(
        &self,
        caller: &Principal,
        channel: &Channel,
        undelivered: Undelivered,
    ) -> Result<IntakeAnswer, ServiceError> {
        let unknown = || ServiceError::new(ErrorKind::NotFound, "NO_SUCH_DELIVERY");
        let wire = undelivered.answers.parse().map_err(|_| unknown())?;
        let store = &self.parts.store;
        let view = store.delivery_by_wire_id(&wire).await?;
        let view = view.ok_or_else(unknown)?;
        let theirs = match channel {
            Channel::Endpoint(id) => view.delivery.endpoint == *id,
            Channel::Peer(_) => self.owns(caller, &view.delivery.recipient),
        };
        if !theirs {
            return Err(unknown());
        }
        if view.delivery.kind == Kind::Guidance && view.state != DeliveryState::Done {
            return self.family_undelivered(caller, view, &undelivered).await;
        }
        let repeated = if view.state.blocks_lane() {
            match store
                .operate(self.parking(caller, &view, &undelivered))
                .await
            {
                Ok(()) => false,
                Err(error) => return Err(later(error)),
            }
        } else {
            let change = self.noting(caller, &view, &undelivered).await?;
            store.change(change).await.map_err(later)?.repeated
        };
        Ok(IntakeAnswer {
            referral: view.referral,
            reference: view.reference,
            repeated,
            state: None,
        })
    }

    fn undelivered_alarm(&self, view: &DeliveryView, undelivered: &Undelivered) -> NewAlarm {
        let owner = self.owner_of(view);
        NewAlarm {
            kind: if view.delivery.kind == Kind::Status {
                AlarmKind::SenderNotTold
            } else {
                AlarmKind::Parked
            },
            subject: view.delivery.id.to_string(),
            owner: owner.agency,
            role: owner.role,
            text: format!(
                "{} says that this did not arrive: {}: speak with the receiver, then resend or redirect it",
                view.delivery.endpoint, undelivered.why.text
            ),
        }
    }

    /// Who must act when a delivery needs a person: the owner of its service, or the triage owner.
    fn owner_of(&self, view: &DeliveryView) -> Owner {
        let in_force = self.in_force();
        let services = &in_force.directory.services;
        let own = view
            .delivery
            .service
            .as_ref()
            .and_then(|id| services.get(id));
        let acting = own.or_else(|| in_force.directory.triage());
        acting.map_or_else(
            || Owner {
                agency: view.delivery.recipient.clone(),
                role: "triage".to_owned(),
            },
            waymark_core::directory::Service::owner,
        )
    }

    /// What is recorded and told, whatever becomes of the delivery.
    fn news(&self, caller: &Principal, view: &DeliveryView, undelivered: &Undelivered) -> News {
        let now = self.now();
        let draft = self.drafter();
        let id = view.delivery.id;
        let mut entry = draft
            .entry(EntryKind::Receipt, view.stream, caller, now)
            .code("delivery", id.to_string())
            .code("outcome", "undelivered")
            .code("why", &undelivered.why.code);
        let words = serde_json::Value::from(undelivered.why.text.as_str()).to_string();
        let opening = draft.commit(&mut entry, CommitmentTag::Answer, words.as_bytes());
        let note = draft.body(now, NOTE, words.into_bytes());
        let notice = StatusNotice {
            from: view.delivery.recipient.clone(),
            service: view.delivery.service.clone(),
            state: LegState::Submitted,
            code: StatusNotice::UNDELIVERABLE.to_owned(),
            text: None,
            due: None,
            at: now,
        };
        let telling = Telling {
            sender: &view.sender,
            notice: &notice,
            at: now,
            urgent: view.delivery.urgent,
        };
        let tell = (view.delivery.kind != Kind::Status)
            .then(|| tell_sender(&draft, &self.in_force().directory, &telling))
            .flatten();
        let event = NewEvent {
            leg: view.delivery.leg,
            delivery: Some(id),
            source: view.delivery.recipient.clone(),
            text: Some(note.id),
            ..NewEvent::of(&entry, EventKind::Delivery, &undelivered.why.code)
        };
        News {
            event,
            note,
            tell,
            alarm: self.undelivered_alarm(view, undelivered),
            entry,
            opening,
        }
    }

    fn parking(
        &self,
        caller: &Principal,
        view: &DeliveryView,
        undelivered: &Undelivered,
    ) -> Operation {
        let news = self.news(caller, view, undelivered);
        let id = view.delivery.id;
        Operation {
            delivery: id,
            message_key: Some(key_of(view, undelivered)),
            act: Act::Park(undelivered.reason),
            at: news.entry.at,
            deadline: view.delivery.deadline,
            event: news.event,
            note: news.note,
            tell: news.tell,
            alarms: vec![news.alarm],
            resolve: vec![(AlarmKind::EvidenceOverdue, id.to_string())],
            entry: news.entry,
            openings: vec![news.opening],
        }
    }

    /// The change of a referral one of whose deliveries had ended; the same news again changes nothing.
    async fn noting(
        &self,
        caller: &Principal,
        view: &DeliveryView,
        undelivered: &Undelivered,
    ) -> Result<ReferralChange, ServiceError> {
        let referral = self.parts.store.referral(view.referral).await?;
        let referral =
            referral.ok_or_else(|| ServiceError::new(ErrorKind::Internal, "REFERRAL_GONE"))?;
        let news = self.news(caller, view, undelivered);
        let (tell, deliveries) = news.tell.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        Ok(ReferralChange {
            message_key: Some(key_of(view, undelivered)),
            bodies: std::iter::once(news.note).chain(tell).collect(),
            deliveries,
            alarms: vec![news.alarm],
            openings: vec![news.opening],
            ..ReferralChange::of((referral.id, referral.version), news.event, news.entry)
        })
    }
}

/// What tells the same news of a delivery that comes again: the same code, in whatever words, as a report and the answer to
/// our own question have words of their own.
fn key_of(view: &DeliveryView, undelivered: &Undelivered) -> MessageKey {
    let (wire, code) = (&view.delivery.wire_id, &undelivered.why.code);
    MessageKey {
        sender: view.delivery.recipient.clone(),
        key: format!("undelivered:{wire}:{code}").into(),
        content: Payload::new(code.clone().into_bytes()),
    }
}

/// An attempt is under way, or somebody else ended it meanwhile: the news is asked for again.
fn later(error: StoreError) -> ServiceError {
    match error {
        StoreError::Stale => ServiceError::new(ErrorKind::Unavailable, "CHANGED_MEANWHILE"),
        error => error.into(),
    }
}

/// What is recorded of a delivery that did not arrive after all.
struct News {
    entry: EntryDraft,
    opening: Opening,
    event: NewEvent,
    note: NewBody,
    tell: Option<(NewBody, NewDelivery)>,
    alarm: NewAlarm,
}
