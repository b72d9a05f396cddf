//! Asking a plain server what became of our tasks, a few at a time, and what its subscriptions bring.

use serde_json::Value;
use waymark_core::delivery::{Kind, Outcome, Why};
use waymark_core::directory::CodeMap;
use waymark_core::personal::Payload;
use waymark_core::port::{Channel, Collected, Inbound, InboundBody, Intake, Sent};

use super::wire::MEDIA_TYPE;
use super::wire::node::{Fault, Node};
use super::wire::plain;
use super::{Ask, Call, Fhir, name, reading};
use crate::https::below;

/// Tasks asked for in one request.
const TASKS_PER_ASK: usize = 20;

impl Fhir {
    /// Asks for the task of each referral that was sent, and hands on what moved.
    pub(super) async fn tasks(
        &self,
        call: Call<'_>,
        sent: &[Sent],
        intake: &dyn Intake,
    ) -> Collected {
        let mut collected = Collected::default();
        let new: Vec<&Sent> = sent.iter().filter(|sent| sent.kind == Kind::New).collect();
        for some in new.chunks(TASKS_PER_ASK) {
            match self.search(call, some).await {
                Err(why) => {
                    collected.stopped = Some(why);
                    return collected;
                }
                Ok(found) => {
                    let bundle = Node::new(&found, "Bundle");
                    for entry in bundle.list("entry").unwrap_or_default() {
                        let Ok(task) = entry.required("resource") else {
                            collected.refused += 1;
                            continue;
                        };
                        // Only what was asked for: a server's own idea of a search is not trusted.
                        match read(
                            &task,
                            Channel::Endpoint(call.endpoint.id.clone()),
                            &call.endpoint.codes,
                            None,
                        ) {
                            Ok(None) => {}
                            Ok(Some(message)) if asked_for(&message, some) => {
                                match intake.take(message).await {
                                    Ok(answer) if answer.repeated => {}
                                    Ok(_) => collected.taken += 1,
                                    Err(_) => collected.refused += 1,
                                }
                            }
                            Ok(Some(_)) | Err(_) => collected.refused += 1,
                        }
                    }
                }
            }
        }
        collected
    }

    async fn search(&self, call: Call<'_>, some: &[&Sent]) -> Result<Value, Why> {
        let ids: Vec<String> = some
            .iter()
            .map(|sent| format!("{}|{}", name::DELIVERY_ID, sent.wire_id))
            .collect();
        let mut url = below(&call.settings.address.url, &["Task"]);
        url.query_pairs_mut()
            .append_pair("identifier", &ids.join(","))
            .append_pair("_count", &TASKS_PER_ASK.to_string());
        let ask = Ask {
            method: http::Method::GET,
            url,
            headers: reading(),
            body: None,
            traceparent: None,
        };
        let why = |outcome: &Outcome| {
            let why = outcome.why().cloned();
            why.unwrap_or_else(|| Why::new("fhir.collect", "the search was not answered"))
        };
        let answer = self
            .ask(call, &ask)
            .await
            .map_err(|outcome| why(&outcome))?;
        if !answer.status.is_success() {
            let text = format!("a search for tasks was answered {}", answer.status.as_u16());
            return Err(Why::new("fhir.collect", text));
        }
        serde_json::from_slice(&answer.body).map_err(|_| {
            Why::new(
                "fhir.collect",
                "the answer to a search for tasks is not JSON",
            )
        })
    }
}

fn asked_for(message: &Inbound, some: &[&Sent]) -> bool {
    let InboundBody::Status(status) = &message.body else {
        return false;
    };
    some.iter().any(|sent| {
        status.answers.as_deref() == Some(sent.wire_id.as_str())
            && status.referral == sent.reference.as_str()
    })
}

/// Reads a task as news; none where it has none.
pub(super) fn read(
    task: &Node<'_>,
    channel: Channel,
    codes: &CodeMap,
    traceparent: Option<String>,
) -> Result<Option<Inbound>, Fault> {
    let Some((message_key, status)) = plain::read_task(task, codes)? else {
        return Ok(None);
    };
    let original = serde_json::to_vec(task.value()).unwrap_or_default();
    Ok(Some(Inbound {
        channel,
        claimed_sender: None,
        message_key,
        fingerprint: Payload::new(original.clone()),
        original: Payload::new(original),
        media_type: MEDIA_TYPE.to_owned(),
        traceparent,
        environment: None,
        attachments: Vec::new(),
        conversation: None,
        body: InboundBody::Status(status),
    }))
}
