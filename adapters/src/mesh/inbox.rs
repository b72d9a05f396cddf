//! Taking in what lies in our inbox, and asking what became of what we sent. A message leaves the inbox only once the
//! intake answered. One that cannot be taken in stays there and is told of, until it is taken in or MESH gives it back.

use std::collections::BTreeSet;

use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::Url;
use waymark_core::delivery::{Evidence, Outcome, Why};
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::id::Reference;
use waymark_core::personal::Payload;
use waymark_core::port::{
    Channel, Collected, Inbound, InboundBody, Intake, IntakeError, Sent, Undelivered,
};
use waymark_core::time::Timestamp;

use super::Mesh;
use super::answer::{self, Stage, Tracked};
use super::call::{Ask, Call, why_of};
use super::config::ack_of;
use super::envelope::{Envelope, Lies, sums_up, unpacked};
use super::wire::{self, MESSAGE_BYTES_MAX};
use crate::limits::ANSWER_BYTES_MAX;
use crate::receipt;

/// Messages that one request lists (the API's own default).
const LIST_MAX: usize = 500;
/// Requests to list that one round makes.
const LISTS_MAX: usize = 4;
/// Chunks of one message that are fetched.
const CHUNKS_MAX: usize = 1_000;
/// The longest place from which a list goes on.
const PLACE_CHARS_MAX: usize = 1_000;
/// What a chunk may be longer than what it unpacks to.
const PACKING_BYTES: usize = 64 * 1024;
/// The longest media type that is kept.
const MEDIA_TYPE_CHARS_MAX: usize = 100;
/// Answers of the hub that say nothing of a message before the round ends: it is the hub then, and not a message.
const UNCLEAR_MAX: u32 = 3;
/// A round begins nothing new when less time is left than this.
const MARGIN: std::time::Duration = std::time::Duration::from_secs(2);
/// Media type of what the hub says of a message.
const JSON: &str = "application/json";
/// The code of the refusal of what cannot be read.
const UNREADABLE: &str = "UNREADABLE";
/// Media type of a message that says none.
const BYTES: &str = "application/octet-stream";

/// Why a round goes no further.
enum Stop {
    Told(Why),
    Late,
}

/// What became of a message.
enum Answer {
    /// The intake has it, under our reference.
    Taken(Reference),
    /// It would not take it: by a code, and in words.
    Refused(&'static str, String),
    /// It is for another endpoint of this mailbox, or for nobody.
    NotOurs,
}

/// What a message was found to be.
enum Found {
    Message(Box<Inbound>),
    NotOurs,
    /// It says that an answer of ours did not arrive: nobody waits to hear that.
    AnswerLost,
    Wrong(Violation),
    /// Somebody acknowledged it meanwhile.
    Gone,
    /// The hub answered something else about it.
    Unclear(Why),
}

/// One round at one inbox.
pub(super) struct Round<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) call: Call<'a>,
    pub(super) intake: &'a dyn Intake,
    pub(super) now: Timestamp,
    pub(super) collected: Collected,
    /// What stays in the inbox, the first of it in words.
    pub(super) left: Option<Why>,
    /// Answers so far that said nothing of their message.
    pub(super) unclear: u32,
}

impl Round<'_> {
    /// Takes in what lies in the inbox, then asks about what was sent.
    pub(super) async fn run(mut self, sent: &[Sent]) -> Collected {
        let ended = match self.inbox().await {
            Ok(()) => self.tracking(sent).await,
            Err(stop) => Err(stop),
        };
        let progress = self.collected.taken > 0;
        self.collected.stopped = match ended {
            Err(Stop::Told(why)) => Some(why),
            Err(Stop::Late) if progress => {
                self.collected.more = true;
                self.left
            }
            Err(Stop::Late) => {
                let text = "the round did not end in its time";
                Some(Why::new("mesh.timeout", text))
            }
            Ok(()) => self.left,
        };
        self.collected
    }

    fn in_time(&self) -> Result<(), Stop> {
        if Instant::now() + MARGIN >= self.call.until {
            return Err(Stop::Late);
        }
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        answer_max: usize,
    ) -> Result<super::call::Answer, Stop> {
        let ask = Ask {
            method,
            path,
            query,
            headers: HeaderMap::new(),
            body: Vec::new(),
            answer_max,
        };
        let answered = self.mesh.ask(self.call, ask).await;
        answered.map_err(|outcome| Stop::Told(why_of(&outcome)))
    }

    async fn inbox(&mut self) -> Result<(), Stop> {
        let (mut place, mut listed) = (None::<String>, BTreeSet::new());
        let endpoint = &self.call.endpoint.id;
        for _ in 0..LISTS_MAX {
            let (ids, next) = self.list(place.as_deref()).await?;
            for id in &ids {
                let lies = self.mesh.left.lies(endpoint, id, self.now);
                if let Some(why) = lies {
                    self.left.get_or_insert(why);
                    continue;
                }
                self.in_time()?;
                self.one(id).await?;
            }
            listed.extend(ids);
            match next {
                None => {
                    self.mesh.left.keep(endpoint, &listed);
                    return Ok(());
                }
                Some(next) => place = Some(next),
            }
        }
        self.collected.more = self.collected.taken > 0;
        Ok(())
    }

    /// The ids of a page, oldest first, and where the next page begins.
    async fn list(&self, place: Option<&str>) -> Result<(Vec<String>, Option<String>), Stop> {
        let unreadable = || {
            Stop::Told(Why::new(
                "mesh.list",
                "the list of the inbox cannot be read",
            ))
        };
        let most = LIST_MAX.to_string();
        let mut query = vec![("max_results", &*most)];
        query.extend(place.map(|place| ("continue_from", place)));
        let path = [&*self.call.settings.mailbox, "inbox"];
        let answer = self
            .ask(Method::GET, &path, &query, ANSWER_BYTES_MAX)
            .await?;
        if answer.status != StatusCode::OK {
            let why = unexpected("mesh.list", "listing the inbox", answer.status);
            return Err(Stop::Told(why));
        }
        let body = unpacked(&answer.headers, answer.body, ANSWER_BYTES_MAX);
        let body = body.map_err(|_| unreadable())?;
        let list: Value = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let listed = list.get("messages").and_then(Value::as_array);
        let ids = listed.ok_or_else(unreadable)?.iter().take(LIST_MAX);
        let ids: Option<Vec<String>> = ids.map(|id| answer::id(Some(id))).collect();
        let next = list.get("links").and_then(|links| links.get("next"));
        let next = next.and_then(Value::as_str).and_then(|link| {
            // Only the place is taken of it: where we ask is ours to say.
            let link = self.call.settings.address.url.join(link).ok()?;
            continues(&link)
        });
        Ok((ids.ok_or_else(unreadable)?, next))
    }

    /// One message: fetched, handed over, and acknowledged once it was taken.
    async fn one(&mut self, id: &str) -> Result<(), Stop> {
        let path = [&*self.call.settings.mailbox, "inbox", id];
        let head = self.ask(Method::HEAD, &path, &[], ANSWER_BYTES_MAX).await?;
        let envelope = match head.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Envelope::read(&head.headers),
            StatusCode::GONE | StatusCode::NOT_FOUND => return Ok(()),
            status => return self.unclear(unexpected("mesh.get", "a message", status)),
        };
        let (found, envelope) = match envelope {
            Err(fault) => (Found::Wrong(fault), None),
            Ok(envelope) => (self.found(id, &envelope).await?, Some(envelope)),
        };
        let since = envelope.as_ref().and_then(|envelope| envelope.at);
        let asks = envelope.filter(|_| self.call.settings.acknowledges);
        let asks = asks.and_then(|envelope| self.asks(envelope));
        let answer = match found {
            Found::Gone => return Ok(()),
            Found::Unclear(why) => return self.unclear(why),
            Found::NotOurs => Answer::NotOurs,
            Found::AnswerLost => return self.acknowledge(id).await,
            Found::Wrong(fault) => Answer::Refused(UNREADABLE, fault.to_string()),
            Found::Message(message) => self.hand_over(*message).await?,
        };
        match answer {
            Answer::Taken(reference) => {
                // Before it leaves the inbox: what ends here is taken in once more, and answered once more.
                if let Some((workflow, local_id)) = &asks {
                    let receipt = receipt::written(local_id, reference.as_str());
                    self.answer((workflow, local_id), receipt).await?;
                }
                self.acknowledge(id).await?;
                self.collected.taken = self.collected.taken.saturating_add(1);
            }
            Answer::Refused(code, why) => {
                self.collected.refused = self.collected.refused.saturating_add(1);
                let untold = self.leave(id, "mesh.left", &format!("cannot be taken in: {why}"));
                if let Some((workflow, local_id)) = asks.filter(|_| untold) {
                    let refusal = receipt::refusal(&local_id, code, &why);
                    self.answer((&workflow, &local_id), refusal).await?;
                    self.mesh.left.answered(&self.call.endpoint.id, id);
                }
            }
            Answer::NotOurs => {
                let old =
                    since.is_none_or(|at| self.now.since(at) >= self.call.settings.left_after);
                if old {
                    let why = "is from a mailbox, or under a workflow, that no endpoint takes in";
                    self.leave(id, "mesh.nobodys", why);
                }
            }
        }
        Ok(())
    }

    /// Passes over what the hub says nothing clear of, unless it does so again and again.
    fn unclear(&mut self, why: Why) -> Result<(), Stop> {
        self.unclear = self.unclear.saturating_add(1);
        if self.unclear >= UNCLEAR_MAX {
            return Err(Stop::Told(why));
        }
        self.left.get_or_insert(why);
        Ok(())
    }

    /// Lets a message lie; answers whether its sender is still to be told.
    fn leave(&mut self, id: &str, code: &str, why: &str) -> bool {
        let endpoint = &self.call.endpoint.id;
        tracing::warn!(endpoint.id = %endpoint, message.id = id, code, "a message stays in the MESH inbox");
        let text = format!("message {id} stays in the inbox: it {why}");
        let why = Why::new(code, text);
        let untold = self.mesh.left.leave(endpoint, id, &why, self.now);
        self.left.get_or_insert(why);
        untold
    }

    /// The workflow and the sender's own id of a message that is to be answered: one of a workflow that is taken in,
    /// whose sender named it. An answer is not answered.
    fn asks(&self, envelope: Envelope) -> Option<(String, String)> {
        let settings = self.call.settings;
        let ours = envelope.lies == Lies::Data
            && envelope.from == settings.to
            && settings.accepts.contains(&envelope.workflow);
        let local_id = envelope.local_id.filter(|_| ours)?;
        Some((envelope.workflow, local_id))
    }

    /// Answers a message. One that cannot be answered now is not done with; that the hub will never take the answer holds
    /// up nothing, and is told of.
    async fn answer(&mut self, named: (&str, &str), body: Vec<u8>) -> Result<(), Stop> {
        let Err(outcome) = self.mesh.answer(self.call, named, body).await else {
            return Ok(());
        };
        let text = format!("a message could not be answered: {}", why_of(&outcome).text);
        let why = Why::new("mesh.answer", text);
        if matches!(outcome, Outcome::Retry { .. } | Outcome::Unknown { .. }) {
            return Err(Stop::Told(why));
        }
        self.left.get_or_insert(why);
        Ok(())
    }

    async fn found(&self, id: &str, envelope: &Envelope) -> Result<Found, Stop> {
        let settings = self.call.settings;
        let acknowledges = envelope.workflow == settings.ack_workflow();
        match envelope.lies {
            Lies::Report => Ok(self.report(id, envelope)),
            Lies::Data if envelope.from != settings.to => Ok(Found::NotOurs),
            Lies::Data if acknowledges || settings.accepts.contains(&envelope.workflow) => {
                let (data, media_type) = match self.data(id).await? {
                    Ok(data) => data,
                    Err(found) => return Ok(found),
                };
                if !sums_up(envelope.checksum.as_deref(), &data) {
                    let why = "is not that of the message as it came";
                    return Ok(Found::Wrong(Violation::new("Mex-Content-Checksum", why)));
                }
                Ok(self.message(id, envelope, acknowledges, data, media_type))
            }
            Lies::Data => Ok(Found::NotOurs),
        }
    }

    /// The hub's word that one of our messages did not arrive: of this endpoint's, or of another's.
    fn report(&self, id: &str, envelope: &Envelope) -> Found {
        // A report bears the workflow of its message; an answer of ours bears the agency's own id, which says nothing here.
        let settings = self.call.settings;
        let mut taken = settings.accepts.iter();
        if taken.any(|workflow| ack_of(workflow) == envelope.workflow) {
            let endpoint = &self.call.endpoint.id;
            tracing::warn!(endpoint.id = %endpoint, message.id = id, "an answer of ours was not collected");
            return Found::AnswerLost;
        }
        let of_ours = envelope.workflow == settings.workflow;
        let Some(answers) = envelope.local_id.clone().filter(|_| of_ours) else {
            return Found::NotOurs;
        };
        let (reason, why) = answer::undelivered(envelope.code.as_deref());
        let shown = serde_json::json!({
            "message_id": id, "local_id": &answers, "workflow_id": &envelope.workflow, "code": &envelope.code,
        });
        let body = InboundBody::Undelivered(Undelivered {
            answers,
            reason,
            why,
        });
        Found::Message(Box::new(self.own(
            id.to_owned(),
            shown.to_string().into_bytes(),
            body,
        )))
    }

    /// News that this gateway found itself at the hub.
    fn own(&self, message_key: String, original: Vec<u8>, body: InboundBody) -> Inbound {
        let original = Payload::new(original);
        Inbound {
            channel: Channel::Endpoint(self.call.endpoint.id.clone()),
            claimed_sender: None,
            message_key,
            fingerprint: original.clone(),
            original,
            media_type: JSON.to_owned(),
            traceparent: None,
            environment: None,
            attachments: Vec::new(),
            conversation: None,
            body,
        }
    }

    fn message(
        &self,
        id: &str,
        envelope: &Envelope,
        acknowledges: bool,
        data: Vec<u8>,
        media_type: String,
    ) -> Found {
        let read = if acknowledges {
            wire::acknowledgement(
                &data,
                envelope.local_id.as_deref(),
                &self.call.endpoint.codes,
            )
        } else {
            wire::read(&data, self.call.endpoint, self.call.settings)
        };
        match read {
            Err(fault) => Found::Wrong(fault),
            Ok(said) => {
                let original = Payload::new(data);
                Found::Message(Box::new(Inbound {
                    channel: Channel::Peer(self.call.settings.peer()),
                    claimed_sender: said.claimed_sender,
                    message_key: id.to_owned(),
                    fingerprint: original.clone(),
                    original,
                    media_type,
                    traceparent: None,
                    environment: said.environment,
                    attachments: said.documents,
                    conversation: None,
                    body: said.body,
                }))
            }
        }
    }

    /// The bytes of a message, its chunks put together, and their media type; or what it is found to be instead.
    async fn data(&self, id: &str) -> Result<Result<(Vec<u8>, String), Found>, Stop> {
        let mailbox = &*self.call.settings.mailbox;
        let mut data = Vec::new();
        let mut media_type = None;
        for number in 1..=CHUNKS_MAX {
            let left = MESSAGE_BYTES_MAX.saturating_sub(data.len());
            let at = number.to_string();
            let path: &[&str] = if number == 1 {
                &[mailbox, "inbox", id]
            } else {
                &[mailbox, "inbox", id, &at]
            };
            let most = left.saturating_add(PACKING_BYTES);
            let chunk = self.ask(Method::GET, path, &[], most).await?;
            match chunk.status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
                StatusCode::GONE | StatusCode::NOT_FOUND if number == 1 => {
                    return Ok(Err(Found::Gone));
                }
                status => {
                    let why = unexpected("mesh.get", "a chunk", status);
                    return Ok(Err(Found::Unclear(why)));
                }
            }
            if chunk.too_long {
                let why = format!("is longer than the {MESSAGE_BYTES_MAX} bytes that are taken in");
                return Ok(Err(Found::Wrong(Violation::new("data", why))));
            }
            media_type = media_type.or_else(|| media_type_of(&chunk.headers));
            match unpacked(&chunk.headers, chunk.body, left) {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(fault) => return Ok(Err(Found::Wrong(fault))),
            }
            if chunk.status == StatusCode::OK {
                let media_type = media_type.unwrap_or_else(|| BYTES.to_owned());
                return Ok(Ok((data, media_type)));
            }
        }
        let why = Violation::new("Mex-Chunk-Range", "has too many chunks");
        Ok(Err(Found::Wrong(why)))
    }

    /// Hands a message over. What may be taken later stays where it is, and the round ends.
    async fn hand_over(&self, message: Inbound) -> Result<Answer, Stop> {
        let of_ours = matches!(message.channel, Channel::Endpoint(_));
        let taken = timeout_at(self.call.until, self.intake.take(message)).await;
        let IntakeError {
            kind,
            violations,
            reason,
        } = match taken.map_err(|_| Stop::Late)? {
            Ok(answer) => return Ok(Answer::Taken(answer.reference)),
            Err(error) => error,
        };
        let told = |code: &str, text: String| Err(Stop::Told(Why::new(code, text)));
        match kind {
            ErrorKind::Exhausted
            | ErrorKind::Unavailable
            | ErrorKind::Internal
            | ErrorKind::Corrupt => told(
                "mesh.not_now",
                format!("what came cannot be taken in now ({reason})"),
            ),
            ErrorKind::Unauthenticated => told(
                "mesh.identity",
                format!(
                    "the directory has no identity {} that holds today",
                    self.call.settings.peer()
                ),
            ),
            ErrorKind::NotFound if of_ours => Ok(Answer::NotOurs),
            ErrorKind::Invalid
            | ErrorKind::Denied
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Precondition => {
                let first = violations.first().map(ToString::to_string);
                let why = first.unwrap_or_else(|| kind.sentence().to_owned());
                Ok(Answer::Refused(reason, format!("{reason}: {why}")))
            }
        }
    }

    /// Tells MESH that a message is ours now. One that is gone was acknowledged before.
    async fn acknowledge(&self, id: &str) -> Result<(), Stop> {
        let path = [
            &*self.call.settings.mailbox,
            "inbox",
            id,
            "status",
            "acknowledged",
        ];
        let answer = self.ask(Method::PUT, &path, &[], ANSWER_BYTES_MAX).await?;
        match answer.status {
            StatusCode::OK | StatusCode::GONE | StatusCode::NOT_FOUND => Ok(()),
            status => {
                let why = unexpected("mesh.acknowledge", "an acknowledgement", status);
                Err(Stop::Told(why))
            }
        }
    }

    /// Asks what became of messages that only the hub has acknowledged.
    async fn tracking(&mut self, sent: &[Sent]) -> Result<(), Stop> {
        for each in sent.iter().filter(|sent| sent.evidence == Evidence::Sent) {
            self.in_time()?;
            let wire = each.wire_id.as_str();
            let (found, said) = match self.mesh.track(self.call, wire).await {
                Ok(found) => found,
                Err(why) => {
                    self.unclear(why)?;
                    continue;
                }
            };
            let Tracked::One { stage, code, .. } = found else {
                continue;
            };
            let body = match stage {
                Stage::Uploading | Stage::Accepted => continue,
                Stage::Acknowledged => {
                    InboundBody::Status(receipt::evidence(wire.to_owned(), Evidence::TransportAck))
                }
                Stage::Undeliverable => {
                    let (reason, why) = answer::undelivered(code.as_deref());
                    let answers = wire.to_owned();
                    InboundBody::Undelivered(Undelivered {
                        answers,
                        reason,
                        why,
                    })
                }
            };
            let news = self.own(format!("tracking/{wire}"), said, body);
            match self.hand_over(news).await? {
                Answer::Taken(_) => {
                    self.collected.taken = self.collected.taken.saturating_add(1);
                }
                Answer::Refused(_, why) => {
                    self.collected.refused = self.collected.refused.saturating_add(1);
                    let text = format!("what became of {wire} cannot be taken in: {why}");
                    self.left
                        .get_or_insert_with(|| Why::new("mesh.tracking", text));
                }
                Answer::NotOurs => {}
            }
        }
        Ok(())
    }
}

fn unexpected(code: &str, what: &str, status: StatusCode) -> Why {
    Why::new(code, format!("{what} was answered {}", status.as_u16()))
}

/// What a message's bytes are, as its sender says.
fn media_type_of(headers: &HeaderMap) -> Option<String> {
    let of = |name: &str| headers.get(name)?.to_str().ok();
    let named = of("mex-content-type").or_else(|| of("content-type"))?;
    (1..=MEDIA_TYPE_CHARS_MAX)
        .contains(&named.len())
        .then(|| named.to_owned())
}

/// Where a list goes on.
fn continues(link: &Url) -> Option<String> {
    let mut pairs = link.query_pairs();
    let place = pairs.find_map(|(key, value)| (key == "continue_from").then_some(value))?;
    (1..=PLACE_CHARS_MAX)
        .contains(&place.len())
        .then(|| place.into_owned())
}
