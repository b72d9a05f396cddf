//! Asking after messages that were sent, a few at a time: what a lost callback would have said.

use futures::StreamExt as _;
use tokio::time::Instant;
use waymark_core::delivery::{Evidence, Kind, Why};
use waymark_core::error::ErrorKind;
use waymark_core::port::{Collected, Intake, Sent};

use super::wire::{self, News, Seen};
use super::{Call, Found, Notify};

/// Messages asked after at the same time.
const ASKING_MAX: usize = 4;

impl Notify {
    /// Asks after each message that awaits evidence, and hands on what is known now.
    pub(super) async fn ask_after(
        &self,
        call: &Call<'_>,
        sent: &[Sent],
        intake: &dyn Intake,
        until: Instant,
    ) -> Collected {
        let mut collected = Collected::default();
        let mut asked = Vec::new();
        for sent in sent {
            if sent.kind == Kind::Guidance && sent.evidence < Evidence::TransportAck {
                asked.push(self.standing(call, sent, until));
            }
        }
        let mut answers = futures::stream::iter(asked).buffer_unordered(ASKING_MAX);
        while let Some((sent, answer)) = answers.next().await {
            let (seen, said) = match answer {
                Ok(found) => self.said(call, sent, found),
                Err(why) => {
                    collected.stopped = Some(why);
                    return collected;
                }
            };
            let id = &call.endpoint.id;
            let Some(news) = wire::inbound(id, &sent.wire_id, (&seen.id, &seen.status), said)
            else {
                continue;
            };
            match intake.take(news).await {
                Ok(answer) if answer.repeated => {}
                Ok(_) => collected.taken += 1,
                // An attempt of it is under way: the next round asks again.
                Err(error) if error.kind == ErrorKind::Unavailable => {}
                Err(_) => collected.refused += 1,
            }
        }
        collected
    }

    async fn standing<'s>(
        &self,
        call: &Call<'_>,
        sent: &'s Sent,
        until: Instant,
    ) -> (&'s Sent, Result<Found, Why>) {
        let found = match &sent.receiver_reference {
            Some(id) => self.by_id(call, id, until).await,
            None => self.by_reference(call, &sent.wire_id, until).await,
        };
        (sent, found)
    }

    /// What is known of a message; one of which nothing is known for too long did not arrive.
    fn said(&self, call: &Call<'_>, sent: &Sent, found: Found) -> (Seen, News) {
        let seen = match found {
            Found::Seen(seen) => seen,
            Found::Nothing => Seen {
                id: sent.receiver_reference.clone().unwrap_or_default(),
                reference: None,
                status: "not-found".to_owned(),
                way: None,
            },
        };
        let overdue = sent.queued.plus(call.settings.give_up) <= self.clock.now();
        let said = match wire::news(&seen) {
            News::None if overdue => News::Failed("no_news"),
            said => said,
        };
        (seen, said)
    }
}
