//! What happens in the demo, step by step. Nothing is told that was not looked at first.

use std::time::Duration;

use waymark_adapters::grpc::convert::leg_state_to_proto;
use waymark_core::delivery::Kind;
use waymark_core::leg::LegState;
use waymark_proto::v1;

use super::board::{Board, Row};
use super::cast::Cast;
use super::hospital::{self, Power};
use super::log;
use super::samples::{Afterwards, Planned, Referred, Stage};
use super::school;
use super::verdict::{self, Expected, LogSummary, Submitted, Summary};
use super::wait::until;
use crate::cli::failure::Refusal;
use crate::cli::output::word;

/// How long a step may take until everything that it brings about is done.
const SETTLED_WITHIN: Duration = Duration::from_mins(1);
/// How long a step may take once something was found wrong: the verdict is known, and only the details are not.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(5);

/// The play.
pub(super) struct Story<'c> {
    cast: &'c Cast,
    board: Board,
    submitted: Vec<Submitted>,
    faults: Vec<String>,
}

impl<'c> Story<'c> {
    /// Begins with nothing sent.
    pub(super) fn new(cast: &'c Cast, board: Board) -> Self {
        Self {
            cast,
            board,
            submitted: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Plays it to the end and says what was found.
    ///
    /// # Errors
    /// When the gateway or an agency of the demo does not answer at all.
    pub(super) async fn play(
        &mut self,
        planned: Vec<Planned>,
        others: Vec<Referred>,
    ) -> anyhow::Result<Summary> {
        let (open, outage): (Vec<_>, Vec<_>) =
            planned.into_iter().partition(|p| p.stage == Stage::Open);
        self.submit_open(open).await?;
        self.refer(others).await?;
        if !outage.is_empty() {
            self.outage(outage).await?;
        }
        self.repeat().await?;
        self.conclude().await
    }

    /// The board, for what comes after the play.
    pub(super) fn board(&mut self) -> &mut Board {
        &mut self.board
    }

    /// Where every delivery stands.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn rows(&self) -> anyhow::Result<Vec<Row>> {
        let deliveries = self.cast.admin.deliveries().await?;
        let legs = self.cast.school.legs().await?;
        let name = |reference: &str| {
            let known = self
                .submitted
                .iter()
                .find(|s| s.receipt.reference == reference);
            known.map_or_else(|| "yours".to_owned(), |s| s.planned.name.clone())
        };
        let row = |delivery: &v1::Delivery| {
            let case = legs
                .get(&delivery.leg_id)
                .copied()
                .and_then(|state| v1::LegState::try_from(state).ok());
            let to = if delivery.service_id.is_empty() {
                &delivery.agency_id
            } else {
                &delivery.service_id
            };
            Row {
                delivery: delivery.delivery_id.clone(),
                referral: name(&delivery.reference),
                reference: delivery.reference.clone(),
                kind: word(delivery.kind().as_str_name(), "MESSAGE_KIND_"),
                to: to.clone(),
                state: verdict::state(delivery),
                evidence: verdict::evidence(delivery),
                attempts: delivery.attempts,
                case: case
                    .map(|state| word(state.as_str_name(), "LEG_STATE_"))
                    .unwrap_or_default(),
            }
        };
        Ok(deliveries.iter().map(row).collect())
    }

    async fn submit_open(&mut self, planned: Vec<Planned>) -> anyhow::Result<()> {
        let mut answers = self.cast.school.submit_all(&planned).await?;
        for one in planned {
            match answers.remove(&one.request_id) {
                Some(answer) => self.accepted(one, answer),
                None => self.faults.push(format!("{} was not answered", one.name)),
            }
        }
        let count = self.submitted.len();
        self.board.say(&format!(
            "the school submitted {count} referrals on one stream; each was answered with a receipt"
        ))?;
        self.settle().await?;
        if self.faults.is_empty() {
            self.board.say(&format!(
                "everything that the {count} referrals bring about has arrived, once"
            ))?;
        }
        Ok(())
    }

    /// Others than the school refer, each in the language of its own system; the receipt is fetched over gRPC.
    async fn refer(&mut self, others: Vec<Referred>) -> anyhow::Result<()> {
        let mut sent = Vec::new();
        for one in others {
            let (name, by) = (&one.planned.name, one.planned.from);
            match self.cast.refer(&one).await {
                Ok(()) => sent.push(one),
                Err(why) => self
                    .faults
                    .push(format!("{name} was not taken from {by}: {why:#}")),
            }
        }
        for one in sent {
            let (name, by) = (one.planned.name.clone(), one.planned.from);
            let receipt = until(self.patience(), async || self.cast.receipt_of(&one).await);
            match receipt.await? {
                Some(receipt) => self.submitted.push(Submitted {
                    planned: one.planned,
                    receipt,
                    is_cancelled: false,
                }),
                None => self.faults.push(format!(
                    "{name} of {by} has no receipt: the gateway has not taken it in"
                )),
            }
        }
        self.settle().await?;
        if self.faults.is_empty() {
            self.board.say(
                "the therapists referred a child by FHIR, the portage team by files, the hearing service by MESH",
            )?;
        }
        Ok(())
    }

    fn accepted(&mut self, planned: Planned, answer: Result<v1::Receipt, Refusal>) {
        match answer {
            Ok(receipt) if receipt.duplicate || receipt.reference.is_empty() => {
                self.faults.push(format!(
                    "{} was answered with another message's receipt",
                    planned.name
                ));
            }
            Ok(receipt) => self.submitted.push(Submitted {
                planned,
                receipt,
                is_cancelled: false,
            }),
            Err(refusal) => self
                .faults
                .push(format!("{} was refused: {refusal}", planned.name)),
        }
    }

    async fn outage(&mut self, planned: Vec<Planned>) -> anyhow::Result<()> {
        self.cast.hospital.turn(Power::Down).await?;
        self.board
            .say("the hospital is down: it refuses connections")?;
        let before = self.submitted.len();
        for one in planned {
            let answer = self.cast.school.submit(&one).await;
            self.accepted(one, answer);
        }
        let during: Vec<Submitted> = self.submitted.iter().skip(before).cloned().collect();
        self.board.say(&format!(
            "the school submitted {} more, which are durable",
            during.len()
        ))?;
        self.cancel(before).await?;
        self.wait_out(before).await?;
        self.cast.hospital.turn(Power::Up).await?;
        self.board.say("the hospital is back")?;
        self.settle().await?;
        if self.faults.is_empty() {
            self.board
                .say("what waited for it has arrived, once, and no cancel before its referral")?;
        }
        Ok(())
    }

    /// Cancels what is to be cancelled, once an attempt was made: the cancel must then follow, and not overtake.
    async fn cancel(&mut self, from: usize) -> anyhow::Result<()> {
        for at in from..self.submitted.len() {
            let patience = self.patience();
            let Some(one) = self.submitted.get_mut(at) else {
                break;
            };
            if one.planned.afterwards != Afterwards::Cancel {
                continue;
            }
            let (name, referral) = (one.planned.name.clone(), one.receipt.referral_id.clone());
            let attempted = until(patience, async || {
                let deliveries = self.cast.admin.deliveries().await?;
                let mut own = deliveries
                    .iter()
                    .filter(|d| d.referral_id == referral)
                    .peekable();
                Ok((own.peek().is_some() && own.all(|d| d.attempts > 0)).then_some(()))
            });
            if attempted.await?.is_none() {
                self.faults
                    .push(format!("{name} was not attempted in time"));
                continue;
            }
            match self.cast.school.cancel(&one.planned, &referral).await {
                Ok(legs)
                    if legs
                        .iter()
                        .all(|leg| leg.effect() == v1::CancelEffect::Queued) =>
                {
                    one.is_cancelled = true;
                    self.board.say(&format!(
                        "the school cancelled {name}: the cancel waits behind the referral"
                    ))?;
                }
                Ok(_) => self
                    .faults
                    .push(format!("the cancel of {name} is not queued behind it")),
                Err(refusal) => self
                    .faults
                    .push(format!("the cancel of {name} was refused: {refusal}")),
            }
        }
        Ok(())
    }

    /// Waits until everything else has arrived, and looks that the hospital's share waits.
    async fn wait_out(&mut self, from: usize) -> anyhow::Result<()> {
        let during: Vec<Submitted> = self.submitted.iter().skip(from).cloned().collect();
        let expected = verdict::expected(&during, &self.cast.directory)?;
        let (theirs, others): (Vec<Expected>, Vec<Expected>) = expected
            .into_iter()
            .filter(|e| e.kind != Kind::Status)
            .partition(|e| e.agency == hospital::AGENCY);
        let waited = until(self.patience(), async || {
            let rows = self.rows().await?;
            self.board.show(&rows)?;
            let deliveries = self.cast.admin.deliveries().await?;
            let of = |one: &Expected| deliveries.iter().find(|d| is_of(d, one)).cloned();
            let done = others
                .iter()
                .all(|one| of(one).is_some_and(|d| d.state() == v1::DeliveryState::Done));
            let tried = theirs.is_empty()
                || theirs
                    .iter()
                    .any(|one| of(one).is_some_and(|d| d.attempts > 0));
            let waiting = theirs
                .iter()
                .all(|one| of(one).is_some_and(|d| is_waiting(&d)));
            Ok((done && tried).then_some(waiting))
        });
        let waited = waited.await?;
        let arrived = self.cast.hospital.ledger.arrivals();
        let early = theirs
            .iter()
            .any(|one| arrived.iter().any(|a| a.reference == one.reference));
        match waited {
            Some(true) if !early => {
                let text = format!(
                    "{} messages wait for the hospital; {} for everybody else have arrived meanwhile",
                    theirs.len(),
                    others.len()
                );
                self.board.say(&text)?;
            }
            Some(_) => self
                .faults
                .push("a message for the hospital did not wait for it".to_owned()),
            None => self
                .faults
                .push("the hospital's outage delayed messages for others".to_owned()),
        }
        Ok(())
    }

    /// Waits until nothing is wrong with what must have arrived; what then still is, is kept as a fault.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let mut last = Vec::new();
        let settled = until(self.patience(), async || {
            let rows = self.rows().await?;
            self.board.show(&rows)?;
            last = self.look().await?.0;
            Ok(last.is_empty().then_some(()))
        });
        if settled.await?.is_none() {
            self.note(last);
        }
        Ok(())
    }

    fn note(&mut self, faults: Vec<String>) {
        for fault in faults {
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }

    fn patience(&self) -> Duration {
        if self.faults.is_empty() {
            SETTLED_WITHIN
        } else {
            GIVEN_UP_WITHIN
        }
    }

    /// Compares what must be with what is.
    async fn look(&self) -> anyhow::Result<(Vec<String>, Vec<v1::Delivery>)> {
        let expected = verdict::expected(&self.submitted, &self.cast.directory)?;
        let ledgers = self.cast.ledgers();
        let deliveries = self.cast.admin.deliveries().await?;
        let mut faults = verdict::faults(&expected, &ledgers, &deliveries);
        faults.extend(verdict::out_of_order(&ledgers));
        let turned_away = self.cast.hub.refused().into_iter();
        faults.extend(turned_away.map(|why| format!("the MESH hub turned a request away: {why}")));
        let seen = self.cast.school.saw_accepted();
        let accepted = leg_state_to_proto(LegState::Accepted);
        let of_school = |s: &&Submitted| s.planned.from == school::AGENCY;
        for one in self
            .submitted
            .iter()
            .filter(of_school)
            .filter(|s| !seen.contains(&s.receipt.reference))
        {
            faults.push(format!(
                "the school's watch did not show {} as accepted",
                one.planned.name
            ));
        }
        let told = |e: &&Expected| e.kind == Kind::Status && e.agency == school::AGENCY;
        for one in expected.iter().filter(told) {
            if !self
                .cast
                .school
                .saw_status(&one.reference, &one.service, accepted)
            {
                faults.push(format!(
                    "the school's watch did not show the answer of {} to {}",
                    one.service, one.name
                ));
            }
        }
        Ok((faults, deliveries))
    }

    /// Sends the first message again: it must get the first receipt again, and bring nothing about.
    async fn repeat(&mut self) -> anyhow::Result<()> {
        let Some(first) = self.submitted.first().cloned() else {
            return Ok(());
        };
        match self.cast.school.submit(&first.planned).await {
            Ok(again) if is_same_receipt(&first.receipt, &again) => {
                self.board
                    .say("the school sent a message again and got the same receipt")?;
            }
            Ok(_) => self.faults.push(format!(
                "{} sent again got another receipt",
                first.planned.name
            )),
            Err(refusal) => self.faults.push(format!(
                "{} sent again was refused: {refusal}",
                first.planned.name
            )),
        }
        Ok(())
    }

    /// Looks at everything once more, at conservation and at the log.
    async fn conclude(&mut self) -> anyhow::Result<Summary> {
        let conservation = self.cast.admin.conservation().await?;
        if conservation.balanced {
            let count = conservation.accepted_counted;
            self.board.say(&format!(
                "conservation holds: {count} accepted, and each accounted for"
            ))?;
        } else {
            let differences = conservation
                .differences
                .iter()
                .map(|d| format!("conservation: {d}"));
            self.faults
                .push("the conservation check does not hold".to_owned());
            self.faults.extend(differences);
        }
        let receipts: Vec<v1::Receipt> = self.submitted.iter().map(|s| s.receipt.clone()).collect();
        let log = self.cast.verify_log(&receipts).await;
        let log = log.unwrap_or_else(|why| log::Verified {
            faults: vec![format!("the log was not verified: {why:#}")],
            ..log::Verified::default()
        });
        self.faults.extend(log.faults.iter().cloned());
        let (faults, deliveries) = self.look().await?;
        self.note(faults);
        let rows = self.rows().await?;
        self.board.finish(&rows)?;
        let mut summary = Summary {
            referrals: self.submitted.len(),
            log: LogSummary {
                size: log.size,
                verified: log.holds,
            },
            faults: std::mem::take(&mut self.faults),
            ..Summary::default()
        };
        summary.count(&deliveries, &self.cast.directory);
        if log.holds {
            let tree = log.tree.display();
            self.board.say(&format!(
                "the delivery log verified: {} entries, exported to {tree}",
                log.size
            ))?;
        }
        Ok(summary.decide())
    }
}

fn is_of(delivery: &v1::Delivery, one: &Expected) -> bool {
    delivery.reference == one.reference
        && delivery.service_id == one.service
        && delivery.agency_id == one.agency
        && delivery.kind == i32::from(waymark_adapters::grpc::convert::kind_to_proto(one.kind))
}

fn is_waiting(delivery: &v1::Delivery) -> bool {
    use v1::DeliveryState as S;
    matches!(
        delivery.state(),
        S::Queued | S::Attempting | S::RetryWait | S::Unknown | S::Held
    )
}

fn is_same_receipt(first: &v1::Receipt, again: &v1::Receipt) -> bool {
    again.duplicate
        && first.referral_id == again.referral_id
        && first.event_id == again.event_id
        && first.leaf_hash == again.leaf_hash
        && first.entry == again.entry
}
