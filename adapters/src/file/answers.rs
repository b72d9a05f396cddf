//! What an agency says of messages that stood in its outbox: receipts, and what it rejected.

use std::collections::BTreeMap;

use waymark_core::delivery::ParkReason;
use waymark_core::error::Violation;
use waymark_core::id::WireId;
use waymark_core::port::{InboundBody, InboundStatus, Undelivered};

use super::inbox::{Holding, ROUND_MESSAGES_MAX, Round, Stop};
use super::name::Name;
use super::outbox::{NOTE_BYTES_MAX, RECEIPT_SUFFIXES, REJECTED_SUFFIX, refusal};
use super::package::MANIFEST_SUFFIX;
use super::place::{Entry, PlaceError, Sub};
use crate::receipt::{self, Receipt};

impl Round<'_> {
    pub(super) async fn receipts(&mut self) -> Result<usize, Stop> {
        let Holding {
            files, unusable, ..
        } = self.listed(Sub::Receipts).await?;
        self.collected.more |= files.len() > ROUND_MESSAGES_MAX;
        for file in files.iter().take(ROUND_MESSAGES_MAX) {
            let wire = RECEIPT_SUFFIXES.iter().find_map(|s| file.name.without(s));
            let Some(wire) = wire.and_then(|text| text.parse::<WireId>().ok()) else {
                let why = "is <message id>.receipt or <message id>.receipt.json";
                self.misnamed(Sub::Receipts, file, why).await?;
                continue;
            };
            let read = self
                .place
                .read(Sub::Receipts, &file.name, NOTE_BYTES_MAX)
                .await;
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(PlaceError::TooLarge) => {
                    let faults = vec![Violation::new("file", "is larger than a receipt may be")];
                    self.set_aside(Sub::Receipts, &file.name, &[], &faults, "TOO_LARGE")
                        .await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let said = match Receipt::read(&bytes, &wire) {
                Ok(said) => said,
                // It may still be being written.
                Err(fault) if self.age(file) >= self.settings.incomplete_after => {
                    self.set_aside(Sub::Receipts, &file.name, &[], &[fault], "UNREADABLE")
                        .await?;
                    continue;
                }
                Err(_) => continue,
            };
            let status = InboundStatus {
                receiver_reference: said.receiver_reference,
                at: said.at,
                ..receipt::evidence(wire.to_string(), said.grade)
            };
            let key = format!("receipt/{wire}");
            let said = self.message(key, bytes, "application/json", InboundBody::Status(status));
            let answer = self.hand_over(said).await?;
            self.settle(answer, Sub::Receipts, &file.name, &[]).await?;
        }
        Ok(unusable)
    }

    pub(super) async fn rejected(&mut self) -> Result<usize, Stop> {
        let Holding {
            files, unusable, ..
        } = self.listed(Sub::Rejected).await?;
        let refusals = |suffix: &'static str| {
            let of = move |file: &Entry| file.name.without(suffix)?.parse::<WireId>().ok();
            files.iter().filter_map(move |file| Some((of(file)?, file)))
        };
        // Where there is a refusal, the message's own manifest beside it is not one as well.
        let mut told: BTreeMap<WireId, &Entry> = refusals(MANIFEST_SUFFIX).collect();
        told.extend(refusals(REJECTED_SUFFIX));
        self.collected.more |= told.len() > ROUND_MESSAGES_MAX;
        for (wire, file) in told.iter().take(ROUND_MESSAGES_MAX) {
            let others = files.iter().filter(|other| other.name != file.name);
            let along = others.filter(|other| belongs(&other.name, wire.as_str()));
            let along: Vec<Name> = along.map(|other| other.name.clone()).collect();
            self.refusal(wire, &file.name, &along).await?;
        }
        let of = |name: &Name| told.keys().any(|wire| belongs(name, wire.as_str()));
        for file in files.iter().filter(|file| !of(&file.name)) {
            let why = "is <message id>.rejected.json, or the message's own files";
            self.misnamed(Sub::Rejected, file, why).await?;
        }
        Ok(unusable)
    }

    async fn refusal(&mut self, wire: &WireId, name: &Name, along: &[Name]) -> Result<(), Stop> {
        let read = self.place.read(Sub::Rejected, name, NOTE_BYTES_MAX).await;
        let bytes = match read {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            // That it was rejected is known, and why is for a person to read.
            Err(PlaceError::TooLarge) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let undelivered = Undelivered {
            answers: wire.to_string(),
            reason: ParkReason::Refused,
            why: refusal(&bytes),
        };
        let body = InboundBody::Undelivered(undelivered);
        let said = self.message(format!("rejected/{wire}"), bytes, "application/json", body);
        let answer = self.hand_over(said).await?;
        self.settle(answer, Sub::Rejected, name, along).await
    }
}

/// Whether a file is of a message: its id, then nothing of a longer id.
fn belongs(name: &Name, id: &str) -> bool {
    name.as_str()
        .strip_prefix(id)
        .is_some_and(|rest| rest.starts_with(['.', '-']))
}
