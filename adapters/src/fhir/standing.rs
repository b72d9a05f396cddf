//! Whether a referral still stands at the far side before it is updated or cancelled: GET first, and only what is active
//! is updated or revoked (BaRS Core 1.4, update and cancel; DOMAIN.md 2.2 and 8, scenario 6). A withdrawal of consent is
//! told whatever its receiver has begun (DOMAIN.md 8, scenario 27), and to nobody who holds nothing of the referral.

use serde_json::Value;
use waymark_core::delivery::{Kind, Outcome, ParkReason, Why};
use waymark_core::port::Outbound;

use super::config::Mode;
use super::wire::message::Message;
use super::wire::node::Node;
use super::wire::plain::RESOURCE_ID;
use super::{Answer, Ask, Call, Fhir, answer, gone_on, header, name, reading};
use crate::https::below;

/// Tasks that nobody works on yet, so that a cancel is a fact.
const OPEN_TASKS: [&str; 6] = [
    "draft",
    "requested",
    "received",
    "accepted",
    "ready",
    "on-hold",
];

impl Fhir {
    /// Nothing where the message may go; else how the attempt ends.
    pub(super) async fn may_go(
        &self,
        message: &Outbound<'_>,
        call: Call<'_>,
        bundle: &Value,
    ) -> Result<(), Outcome> {
        match (message.kind, call.settings.mode) {
            (Kind::Amend, Mode::Bars) if request_id(bundle).is_none() => Ok(()),
            (Kind::Amend, Mode::Bars) | (Kind::Cancel, _) => {
                self.still_active(message, call, bundle).await
            }
            (Kind::Withdraw, Mode::Plain) => match self.task_status(call, bundle).await? {
                Some(_) => Ok(()),
                None => Err(Outcome::Park {
                    reason: ParkReason::Refused,
                    why: Why::new(
                        "fhir.not_there",
                        "the server has no task of the referral, and is given none: tell the agency itself that consent was withdrawn",
                    ),
                }),
            },
            _ => Ok(()),
        }
    }

    async fn still_active(
        &self,
        message: &Outbound<'_>,
        call: Call<'_>,
        bundle: &Value,
    ) -> Result<(), Outcome> {
        let status = match call.settings.mode {
            Mode::Bars => self.request_status(call, message, bundle).await?,
            Mode::Plain => match self.task_status(call, bundle).await? {
                // Nothing of ours is there: what is put says that it is revoked.
                None => return Ok(()),
                Some(status) => status,
            },
        };
        let open = match call.settings.mode {
            Mode::Bars => status == "active",
            Mode::Plain => OPEN_TASKS.contains(&status.as_str()),
        };
        // Our own cancel may have arrived on an attempt whose answer was lost: it goes again under its ids.
        let ended_by_us = message.kind == Kind::Cancel
            && message.attempt > 1
            && ["revoked", "cancelled", "entered-in-error"].contains(&status.as_str());
        if open || ended_by_us {
            return Ok(());
        }
        Err(gone_on(format!(
            "{}: at the far side the referral is {status}, no longer open",
            not_done(message.kind)
        )))
    }

    /// The status of the request that the receiver minted an id for.
    async fn request_status(
        &self,
        call: Call<'_>,
        message: &Outbound<'_>,
        bundle: &Value,
    ) -> Result<String, Outcome> {
        let Some(id) = request_id(bundle) else {
            return Err(Outcome::Park {
                reason: ParkReason::Refused,
                why: Why::new(
                    "fhir.no_request_id",
                    "the receiver never said by which id it knows the request: ask it, then cancel there",
                ),
            });
        };
        let outgoing = header::Outgoing::of(bundle, message.wire_id.as_str());
        let mut headers = outgoing
            .and_then(|outgoing| outgoing.headers(&call.settings.version))
            .unwrap_or_else(reading);
        // A read is a request of its own within the same case.
        let own = name::uuid_of(&[message.wire_id.as_str(), "read-id"]).to_string();
        if let Ok(own) = own.parse() {
            headers.insert(header::REQUEST_ID, own);
        }
        let answer = self
            .read(
                call,
                message,
                below(&call.settings.address.url, &["ServiceRequest", &id]),
                headers,
            )
            .await?;
        // Of a proxy, or of nobody who says so, a 404 is no more than that the request was not found today.
        if answer::is_unknown_there(answer.status, &answer.body) {
            return Err(gone_on(format!(
                "{}: the far side does not know the request",
                not_done(message.kind)
            )));
        }
        let found = self.found(&answer)?;
        status_of(&found, "ServiceRequest").ok_or_else(unreadable)
    }

    /// The status of the task of a plain server; none where it has none.
    async fn task_status(&self, call: Call<'_>, bundle: &Value) -> Result<Option<String>, Outcome> {
        let key = task_key(bundle).ok_or_else(unreadable)?;
        let mut url = below(&call.settings.address.url, &["Task"]);
        url.query_pairs_mut()
            .append_pair("identifier", &format!("{RESOURCE_ID}|{key}"));
        let ask = Ask {
            method: http::Method::GET,
            url,
            headers: reading(),
            body: None,
            traceparent: None,
        };
        let answer = self.ask(call, &ask).await.map_err(unread)?;
        let found = self.found(&answer)?;
        let bundle = Node::new(&found, "Bundle");
        let entries = bundle.list("entry").map_err(|_| unreadable())?;
        let task = entries.first().map(|entry| entry.required("resource"));
        match task {
            None => Ok(None),
            Some(Err(_)) => Err(unreadable()),
            Some(Ok(task)) => status_of(task.value(), "Task")
                .map(Some)
                .ok_or_else(unreadable),
        }
    }

    async fn read(
        &self,
        call: Call<'_>,
        message: &Outbound<'_>,
        url: url::Url,
        headers: http::HeaderMap,
    ) -> Result<Answer, Outcome> {
        let ask = Ask {
            method: http::Method::GET,
            url,
            headers,
            body: None,
            traceparent: message.traceparent,
        };
        self.ask(call, &ask).await.map_err(unread)
    }

    /// The document of an answer that found something.
    fn found(&self, answer: &Answer) -> Result<Value, Outcome> {
        if answer.status.is_success() {
            return serde_json::from_slice(&answer.body).map_err(|_| unreadable());
        }
        let now = self.clock.now();
        Err(unread(answer::refused(
            answer.status,
            &answer.headers,
            &answer.body,
            now,
        )))
    }
}

/// What did not happen to a referral that is no longer open.
const fn not_done(kind: Kind) -> &'static str {
    match kind {
        Kind::Amend => "not updated",
        _ => "not cancelled",
    }
}

/// The id that the receiver minted for the request of a message of ours.
fn request_id(bundle: &Value) -> Option<String> {
    let message = Message::read(bundle).ok()?;
    let id = message.request().ok()?.text("id").ok()??;
    Some(id.to_owned())
}

/// Nothing was written while it was only asked: what is not known of the read is no more than "not yet".
fn unread(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Unknown { why } => Outcome::Retry { after: None, why },
        other => other,
    }
}

fn unreadable() -> Outcome {
    Outcome::SoftReject {
        why: Why::new(
            "fhir.unreadable",
            "what the far side says of the referral cannot be read",
        ),
    }
}

fn status_of(resource: &Value, kind: &str) -> Option<String> {
    let node = Node::new(resource, kind);
    let is_kind = node.text("resourceType").ok()? == Some(kind);
    let status = node.text("status").ok()??;
    let shaped = status.len() <= 20 && status.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    (is_kind && shaped).then(|| status.to_owned())
}

/// The identifier of the task in a transaction of ours.
fn task_key(bundle: &Value) -> Option<String> {
    let bundle = Node::new(bundle, "Bundle");
    for entry in bundle.list("entry").ok()? {
        let resource = entry.required("resource").ok()?;
        if resource.text("resourceType").ok()? != Some("Task") {
            continue;
        }
        for identifier in resource.list("identifier").ok()? {
            if identifier.text("system").ok()? == Some(RESOURCE_ID) {
                return identifier.text("value").ok()?.map(ToOwned::to_owned);
            }
        }
    }
    None
}
