//! Sending: one request, or chunks of it each packed by itself; and what became of a message whose answer was lost.
//!
//! MESH takes the same message twice and makes two of it. So a request to send is made once; only chunks of a message
//! that the hub already knows by id are repeated, and before anything else is sent again the hub is asked.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::sleep;
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Why};
use waymark_core::personal::Payload;
use waymark_core::port::{Outbound, Reconciliation};

use super::Mesh;
use super::answer::{self, Posted, Stage, Tracked};
use super::call::{Ask, Call, why_of};
use super::config::ack_of;
use super::envelope::checksum;
use super::send::Letter;
use super::wire;
use crate::limits::ANSWER_BYTES_MAX;
use crate::webhook;

/// Times that one chunk is sent before the attempt ends: NHS England's own client makes as many.
const CHUNK_TRIES: u32 = 3;
/// The pause before a chunk is sent again.
const CHUNK_PAUSE: Duration = Duration::from_millis(500);

/// A part of a message, from 1.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    number: usize,
    of: usize,
    bytes: &'a [u8],
}

impl Chunk<'_> {
    /// As it is sent: by itself as it is, one of several packed.
    fn body(&self) -> Result<Vec<u8>, std::io::Error> {
        if self.of == 1 {
            return Ok(self.bytes.to_vec());
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(self.bytes)?;
        encoder.finish()
    }

    fn headers(&self) -> Vec<(HeaderName, String)> {
        if self.of == 1 {
            return Vec::new();
        }
        let range = HeaderName::from_static("mex-chunk-range");
        vec![
            (range, format!("{}:{}", self.number, self.of)),
            (CONTENT_ENCODING, "gzip".to_owned()),
        ]
    }
}

/// The parts of a message.
fn chunks(bytes: &[u8], chunk_bytes: usize) -> Vec<Chunk<'_>> {
    let parts = bytes.chunks(chunk_bytes.max(1));
    let of = parts.len();
    let part = |(at, bytes)| Chunk {
        number: at + 1,
        of,
        bytes,
    };
    parts.enumerate().map(part).collect()
}

fn unwritable() -> Outcome {
    Outcome::Park {
        reason: ParkReason::Poison,
        why: Why::new(
            "mesh.stored",
            "what was stored of this message cannot be sent",
        ),
    }
}

fn written(pairs: impl IntoIterator<Item = (HeaderName, String)>) -> Result<HeaderMap, Outcome> {
    pairs
        .into_iter()
        .map(|(name, value)| {
            Ok((
                name,
                HeaderValue::try_from(value).map_err(|_| unwritable())?,
            ))
        })
        .collect()
}

impl Mesh {
    /// Sends a message that the hub does not have. The hub makes two messages of one that is sent twice, and then no longer
    /// says what became of either: after a first attempt, however it ended, it is asked before anything is sent.
    pub(super) async fn send(&self, call: Call<'_>, message: &Outbound<'_>) -> Outcome {
        if message.attempt > 1 {
            match self.settle(call, message).await {
                Reconciliation::NotReceived => {}
                Reconciliation::Received(outcome) => return outcome,
                Reconciliation::StillUnknown(why) => return Outcome::Unknown { why },
            }
        }
        let bytes = message.rendered.bytes.expose();
        let parts = chunks(bytes, call.settings.chunk_bytes);
        let Some((first, rest)) = parts.split_first() else {
            return unwritable();
        };
        match self.first(call, message, first).await {
            Ok(Posted::Taken(_, receipt)) if rest.is_empty() => answer::delivered(receipt),
            Ok(Posted::Taken(id, receipt)) => self.upload(call, &id, rest, receipt).await,
            Ok(Posted::Ended(outcome)) | Err(outcome) => outcome,
        }
    }

    async fn first(
        &self,
        call: Call<'_>,
        message: &Outbound<'_>,
        chunk: &Chunk<'_>,
    ) -> Result<Posted, Outcome> {
        let (settings, wire_id) = (call.settings, message.wire_id.as_str());
        let media_type = &message.rendered.media_type;
        let letter = Letter {
            from: &settings.mailbox,
            to: &settings.to,
            workflow: &settings.workflow,
            local_id: wire_id,
            file_name: &format!("{wire_id}.{}", wire::ending(media_type)),
            subject: &format!("Waymark {} {wire_id}", message.kind),
            media_type,
            bytes: message.rendered.bytes.expose(),
        };
        let mut headers = letter.headers().ok_or_else(unwritable)?;
        headers.extend(written(chunk.headers())?);
        let ask = Ask {
            method: Method::POST,
            path: &[&settings.mailbox, "outbox"],
            query: &[],
            headers,
            body: chunk.body().map_err(|_| unwritable())?,
            answer_max: ANSWER_BYTES_MAX,
        };
        let answer = self.ask(call, ask).await?;
        let now = self.clock.now();
        Ok(answer::posted(
            answer.status,
            &answer.headers,
            answer.body,
            now,
        ))
    }

    /// Answers a message of the agency under its workflow's `_ACK` (NHS MESH, "Workflow groups and workflow IDs"). The hub
    /// takes an answer twice and makes two of it, which say the same.
    pub(super) async fn answer(
        &self,
        call: Call<'_>,
        (workflow, local_id): (&str, &str),
        body: Vec<u8>,
    ) -> Result<(), Outcome> {
        let settings = call.settings;
        let pairs = [
            ("mex-from", settings.mailbox.clone()),
            ("mex-to", settings.to.clone()),
            ("mex-workflowid", ack_of(workflow)),
            ("mex-localid", local_id.to_owned()),
            ("mex-content-checksum", checksum(&body)),
            ("mex-content-type", webhook::wire::MEDIA_TYPE.to_owned()),
            ("content-type", webhook::wire::MEDIA_TYPE.to_owned()),
        ];
        let pairs = pairs.map(|(name, value)| (HeaderName::from_static(name), value));
        let ask = Ask {
            method: Method::POST,
            path: &[&settings.mailbox, "outbox"],
            query: &[],
            headers: written(pairs)?,
            body,
            answer_max: ANSWER_BYTES_MAX,
        };
        let answer = self.ask(call, ask).await?;
        let posted = answer::posted(
            answer.status,
            &answer.headers,
            answer.body,
            self.clock.now(),
        );
        match posted {
            Posted::Taken(..) => Ok(()),
            Posted::Ended(outcome) => Err(outcome),
        }
    }

    /// Sends the other chunks of a message that the hub knows; nobody sees it before the last one is there.
    async fn upload(
        &self,
        call: Call<'_>,
        id: &str,
        chunks: &[Chunk<'_>],
        receipt: Vec<u8>,
    ) -> Outcome {
        for chunk in chunks {
            match self.chunk(call, id, chunk).await {
                Ok(()) => {}
                Err(outcome) => return outcome,
            }
        }
        answer::delivered(receipt)
    }

    async fn chunk(&self, call: Call<'_>, id: &str, chunk: &Chunk<'_>) -> Result<(), Outcome> {
        let (mailbox, number) = (&*call.settings.mailbox, chunk.number.to_string());
        let mut tries = 0;
        loop {
            let headers = written(
                chunk
                    .headers()
                    .into_iter()
                    .chain([(CONTENT_TYPE, "application/octet-stream".to_owned())]),
            )?;
            let ask = Ask {
                method: Method::POST,
                path: &[mailbox, "outbox", id, &number],
                query: &[],
                headers,
                body: chunk.body().map_err(|_| unwritable())?,
                answer_max: ANSWER_BYTES_MAX,
            };
            tries += 1;
            let ended = match self.ask(call, ask).await {
                Ok(answer) => match answer.status {
                    // Locked: the hub has every chunk of it, this one among them.
                    StatusCode::ACCEPTED | StatusCode::OK | StatusCode::LOCKED => return Ok(()),
                    status => {
                        answer::refused(status, &answer.headers, &answer.body, self.clock.now())
                    }
                },
                Err(outcome) => outcome,
            };
            let again = matches!(ended, Outcome::Retry { .. } | Outcome::Unknown { .. });
            if !again {
                return Err(ended);
            }
            if tries >= CHUNK_TRIES || tokio::time::Instant::now() + CHUNK_PAUSE >= call.until {
                // The hub has a part of it: the next attempt asks how far, and goes on from there.
                return Err(Outcome::Unknown {
                    why: why_of(&ended),
                });
            }
            sleep(CHUNK_PAUSE).await;
        }
    }

    /// Asks the hub for a message of ours by our own id.
    pub(super) async fn track(
        &self,
        call: Call<'_>,
        wire_id: &str,
    ) -> Result<(Tracked, Vec<u8>), Why> {
        let ask = Ask {
            method: Method::GET,
            path: &[&call.settings.mailbox, "outbox", "tracking", wire_id],
            query: &[],
            headers: HeaderMap::new(),
            body: Vec::new(),
            answer_max: ANSWER_BYTES_MAX,
        };
        let answer = self.ask(call, ask).await.map_err(|o| why_of(&o))?;
        Ok((answer::tracked(answer.status, &answer.body)?, answer.body))
    }

    /// Settles an attempt of unknown end: what the hub has is not sent again, and what it has in part is completed.
    pub(super) async fn settle(&self, call: Call<'_>, message: &Outbound<'_>) -> Reconciliation {
        let wire_id = message.wire_id.as_str();
        let (found, receipt) = match self.track(call, wire_id).await {
            Ok(found) => found,
            Err(why) => return Reconciliation::StillUnknown(why),
        };
        let Tracked::One {
            id,
            stage: Stage::Uploading,
            ..
        } = &found
        else {
            return settled(found, receipt);
        };
        let bytes = message.rendered.bytes.expose();
        let parts = chunks(bytes, call.settings.chunk_bytes);
        let rest = parts.get(1..).unwrap_or_default();
        match self.upload(call, id, rest, Vec::new()).await {
            Outcome::Delivered { .. } => match self.track(call, wire_id).await {
                Ok((found, receipt)) => settled(found, receipt),
                Err(why) => Reconciliation::StillUnknown(why),
            },
            Outcome::Unknown { why } => Reconciliation::StillUnknown(why),
            outcome => Reconciliation::Received(outcome),
        }
    }
}

/// What tracking says of an attempt.
fn settled(found: Tracked, receipt: Vec<u8>) -> Reconciliation {
    let outcome = match found {
        Tracked::None => return Reconciliation::NotReceived,
        Tracked::Several => Outcome::Park {
            reason: ParkReason::IdCollision,
            why: Why::new(
                "mesh.several",
                "MESH has several messages of this id: ask the agency which it has",
            ),
        },
        Tracked::One { stage, code, .. } => match stage {
            Stage::Accepted => answer::delivered(receipt),
            Stage::Acknowledged => collected(receipt),
            Stage::Undeliverable => {
                let (reason, why) = answer::undelivered(code.as_deref());
                Outcome::Park { reason, why }
            }
            Stage::Uploading => {
                let text = "the hub has a part of the message and waits for the rest";
                return Reconciliation::StillUnknown(Why::new("mesh.uploading", text));
            }
        },
    };
    Reconciliation::Received(outcome)
}

/// The agency has the message.
fn collected(receipt: Vec<u8>) -> Outcome {
    Outcome::Delivered {
        grade: Evidence::TransportAck,
        awaiting: None,
        receiver_reference: None,
        receipt: (!receipt.is_empty()).then(|| Payload::new(receipt)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_of_any_size_put_together_are_the_message(
            bytes in prop::collection::vec(any::<u8>(), 1..4_000), size in 1usize..5_000,
        ) {
            let parts = chunks(&bytes, size);
            let mut whole = Vec::new();
            for (at, part) in parts.iter().enumerate() {
                prop_assert_eq!((part.number, part.of), (at + 1, parts.len()));
                let body = part.body().unwrap();
                if parts.len() == 1 {
                    whole.extend(body);
                } else {
                    GzDecoder::new(body.as_slice()).read_to_end(&mut whole).unwrap();
                }
            }
            prop_assert_eq!(whole, bytes);
        }
    }
}
