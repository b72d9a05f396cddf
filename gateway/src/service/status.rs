//! What a receiving service says is happening, from whichever face it comes.

use jiff::civil::Date;
use waymark_core::access::{Action, Principal};
use waymark_core::alarm::AlarmKind;
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::error::ErrorKind;
use waymark_core::id::LegId;
use waymark_core::leg::{LegState, Owner, Reception, Seen};
use waymark_core::personal::Personal;
use waymark_core::port::{
    EventKind, LegChange, LegView, NewEvent, ReferralChange, ReferralView, StatusNotice, StoreError,
};
use waymark_core::time::Timestamp;

use super::draft::{NOTE, VERSION_FACT};
use super::{Key, STALE_RETRIES_MAX, Service, ServiceError, Telling, tell_sender};

/// A status of a leg.
#[derive(Clone, Debug)]
pub struct StatusUpdate {
    /// The referral.
    pub key: Key,
    /// The leg; may be left out when the caller receives exactly one.
    pub leg: Option<LegId>,
    /// The source's own version, growing by the source's own count.
    pub source_version: u64,
    /// The state.
    pub state: LegState,
    /// Reason code.
    pub reason_code: Option<String>,
    /// Words.
    pub text: Option<Personal<String>>,
    /// The day by which something happens next, where the service says so.
    pub due: Option<Date>,
    /// When it happened, as the source says.
    pub at: Option<Timestamp>,
    /// The receiver's own reference.
    pub receiver_reference: Option<String>,
    /// The role within the receiver's agency that acts next; unchanged where none is named.
    pub owner_role: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// How a status was taken.
#[derive(Clone, Debug)]
pub struct StatusResult {
    /// How.
    pub reception: Reception,
    /// The referral now.
    pub referral: ReferralView,
}

/// Characters in a reason code.
const REASON_CODE_MAX: usize = 64;

impl Service {
    /// Takes a status in: late, repeated and backward ones are kept, flagged and harmless.
    ///
    /// # Errors
    /// `NotFound` for a stranger; `Invalid` when the leg is not clear.
    pub async fn update_status(
        &self,
        caller: &Principal,
        update: StatusUpdate,
    ) -> Result<StatusResult, ServiceError> {
        if update
            .reason_code
            .as_ref()
            .is_some_and(|c| c.len() > REASON_CODE_MAX)
        {
            return Err(ServiceError::field(
                "reason_code",
                format!("at most {REASON_CODE_MAX} characters"),
            ));
        }
        if i64::try_from(update.source_version).is_err() {
            return Err(ServiceError::field(
                "source_version",
                format!("is at most {}", i64::MAX),
            ));
        }
        for _ in 0..STALE_RETRIES_MAX {
            let (view, _permit) = self.find(caller, &update.key, Action::UpdateStatus).await?;
            let leg = self.leg_of(caller, &view, update.leg)?;
            let seen = self
                .parts
                .store
                .status_seen(leg.leg.id, &leg.leg.agency, update.source_version)
                .await?;
            let seen = if seen { Seen::Before } else { Seen::New };
            let reception = leg.state.receive(update.state, seen);
            if reception == Reception::Repeated {
                return Ok(StatusResult {
                    reception,
                    referral: view,
                });
            }
            let change = self.status_change(caller, &view, leg, &update, reception)?;
            match self.parts.store.change(change).await {
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.into()),
                Ok(_changed) => {
                    let referral = self.parts.store.referral(view.id).await?;
                    let referral = referral
                        .ok_or_else(|| ServiceError::new(ErrorKind::Internal, "REFERRAL_GONE"))?;
                    return Ok(StatusResult {
                        reception,
                        referral,
                    });
                }
            }
        }
        Err(ServiceError::new(
            ErrorKind::Unavailable,
            "CHANGED_MEANWHILE",
        ))
    }

    fn leg_of<'v>(
        &self,
        caller: &Principal,
        view: &'v ReferralView,
        asked: Option<LegId>,
    ) -> Result<&'v LegView, ServiceError> {
        let mine: Vec<&LegView> = view
            .legs
            .iter()
            .filter(|l| self.owns(caller, &l.leg.agency))
            .collect();
        match (asked, mine.as_slice()) {
            (Some(id), _) => mine
                .iter()
                .find(|l| l.leg.id == id)
                .copied()
                .ok_or_else(|| {
                    ServiceError::field(
                        "leg_id",
                        "is not a leg of a service of yours: copy it from the referral",
                    )
                }),
            (None, [one]) => Ok(one),
            (None, _) => {
                let open: Vec<&&LegView> = mine.iter().filter(|l| !l.state.is_terminal()).collect();
                match open.as_slice() {
                    [one] => Ok(one),
                    _ => Err(ServiceError::field(
                        "leg_id",
                        "several legs are yours: say which one is meant",
                    )),
                }
            }
        }
    }

    fn status_entry(
        &self,
        caller: &Principal,
        view: &ReferralView,
        leg: &LegView,
        update: &StatusUpdate,
        reception: Reception,
    ) -> EntryDraft {
        let entry = self
            .drafter()
            .entry(EntryKind::Status, view.stream, caller, self.now())
            .code("event", "status")
            .code("leg", leg.leg.id.to_string())
            .code("state", update.state.as_str())
            .code("reception", reception.as_str())
            .code("source_version", update.source_version.to_string())
            .code(VERSION_FACT, (view.version + 1).to_string());
        // The log keeps what it is told for ever: only what looks like a code may stand there in clear.
        let told = [
            ("reason", update.reason_code.as_deref()),
            ("owner_role", update.owner_role.as_deref()),
        ];
        told.into_iter().fold(entry, |entry, (name, text)| {
            match text.filter(|text| looks_like_a_code(text)) {
                Some(code) => entry.code(name, code),
                None => entry,
            }
        })
    }

    /// What becomes of the leg: it moves with an applied update, and a repeated state may still name who acts next and
    /// by which day.
    fn leg_after(
        &self,
        view: &ReferralView,
        leg: &LegView,
        update: &StatusUpdate,
        reception: Reception,
    ) -> Result<Vec<LegChange>, ServiceError> {
        let receiver = Owner {
            agency: leg.leg.agency.clone(),
            role: update
                .owner_role
                .clone()
                .unwrap_or_else(|| self.role_of(leg)),
        };
        let own = update.due.filter(|_| reception.brings_day(update.state));
        let own = own.map(|day| day.to_string());
        let (owner, clock, next_action) = match reception {
            Reception::Applied => {
                let duty = self.duty_of(update.state, &receiver, &view.sender, self.now())?;
                // The service's own day stands before the gateway's default.
                (duty.0, duty.1, own.or(duty.2))
            }
            Reception::Unchanged => {
                let named = update.owner_role.is_some() && leg.waits_for_receiver();
                if !named && (own.is_none() || own == leg.next_action) {
                    return Ok(Vec::new());
                }
                let owner = if named { receiver } else { leg.owner.clone() };
                let day = own.or_else(|| leg.next_action.clone());
                (owner, leg.clock.clone(), day)
            }
            _ => return Ok(Vec::new()),
        };
        Ok(vec![LegChange {
            leg: leg.leg.id,
            state: update.state,
            owner,
            clock,
            next_action,
        }])
    }

    /// The role that acts for a leg's receiver: its own while it is the receiver's turn, else the directory's.
    pub(super) fn role_of(&self, leg: &LegView) -> String {
        if leg.waits_for_receiver() {
            return leg.owner.role.clone();
        }
        let in_force = self.in_force();
        let service = in_force.directory.services.get(&leg.leg.service);
        service.map_or_else(|| leg.owner.role.clone(), |s| s.owner_role.clone())
    }

    fn status_change(
        &self,
        caller: &Principal,
        view: &ReferralView,
        leg: &LegView,
        update: &StatusUpdate,
        reception: Reception,
    ) -> Result<ReferralChange, ServiceError> {
        let now = self.now();
        let draft = self.drafter();
        let mut entry = self.status_entry(caller, view, leg, update, reception);
        let mut bodies = Vec::new();
        let mut openings = Vec::new();
        let text = match &update.text {
            None => None,
            Some(text) => {
                let bytes = serde_json::to_vec(text).unwrap_or_default();
                openings.push(draft.commit(&mut entry, CommitmentTag::Payload, &bytes));
                bodies.push(draft.body(now, NOTE, bytes));
                bodies.last().map(|b| b.id)
            }
        };
        let legs = self.leg_after(view, leg, update, reception)?;
        let mut deliveries = Vec::new();
        let mut resolve = Vec::new();
        let state = if reception == Reception::Applied {
            update.state
        } else {
            leg.state
        };
        if reception == Reception::Applied {
            resolve.push((AlarmKind::Unrouted, leg.leg.id.to_string()));
        }
        // What an answer said that nobody could read is known now.
        let of_leg = view.deliveries.iter().filter(|d| d.leg == Some(leg.leg.id));
        resolve.extend(of_leg.map(|d| (AlarmKind::AnswerUnread, d.id.to_string())));
        let notice = StatusNotice {
            from: leg.leg.agency.clone(),
            service: Some(leg.leg.service.clone()),
            state,
            code: update
                .reason_code
                .clone()
                .unwrap_or_else(|| reception.as_str().to_owned()),
            text: update.text.clone(),
            due: update.due,
            at: update.at.unwrap_or(now),
        };
        let telling = Telling {
            sender: &view.sender,
            notice: &notice,
            at: now,
            urgent: view.safeguarding,
        };
        if let Some((body, delivery)) = tell_sender(&draft, &self.in_force().directory, &telling) {
            bodies.push(body);
            deliveries.push(delivery);
        }
        let event = NewEvent {
            leg: Some(leg.leg.id),
            source: leg.leg.agency.clone(),
            source_version: Some(update.source_version),
            state: Some(update.state),
            reception: Some(reception),
            text,
            ..NewEvent::of(
                &entry,
                EventKind::Status,
                update.reason_code.clone().unwrap_or_default(),
            )
        };
        let receiver = leg.leg.agency.clone();
        let mut change = ReferralChange {
            bodies,
            legs,
            deliveries,
            status_version: Some((leg.leg.id, receiver.clone(), update.source_version)),
            receiver_reference: update.receiver_reference.clone().map(|r| (receiver, r)),
            resolve,
            openings,
            traceparent: update.traceparent.clone(),
            ..ReferralChange::of((view.id, view.version), event, entry)
        };
        self.guide(view, &mut change);
        Ok(change)
    }
}

/// Whether a text is a code rather than words, which could name somebody.
fn looks_like_a_code(text: &str) -> bool {
    text.len() <= 16
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}
