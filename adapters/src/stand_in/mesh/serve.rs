//! What the hub answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::{Fault, Held, ODS, OURS, STRANGE, Shared, Stage, THEIRS, WORKFLOW};

const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Messages of one page of the inbox, however many were asked for.
const PAGE: usize = 10;

fn says(status: StatusCode, body: &Value) -> Response {
    (status, body.to_string()).into_response()
}

fn error(status: StatusCode, code: &str, words: &str) -> Response {
    let detail = json!({"event": "SEND", "code": code, "msg": words});
    says(status, &json!({"message_id": "", "detail": [detail]}))
}

pub(super) async fn serve(State(hub): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    hub.inner()
        .requests
        .push(format!("{} {path}", parts.method));
    let pieces: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let Some(("messageexchange", rest)) = pieces.split_first().map(|(f, r)| (*f, r)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let lookup = rest.first() == Some(&"endpointlookup");
    let mailbox = rest.first().filter(|_| !lookup).copied();
    let own = match hub.admits(mailbox, &parts.headers) {
        Ok(own) => own,
        Err(why) => {
            hub.inner().refused.push(why.clone());
            return error(StatusCode::FORBIDDEN, "TRANSFER", &why);
        }
    };
    let Ok(body) = to_bytes(body, REQUEST_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let tail = rest.get(1..).unwrap_or_default();
    match (&parts.method, tail) {
        (&Method::GET, [ods, workflow]) if lookup => {
            let known = *ods == ODS && *workflow == WORKFLOW;
            let found = known.then(|| json!({"mailbox_id": THEIRS, "mailbox_name": "R1L"}));
            let results: Vec<Value> = found.into_iter().collect();
            says(StatusCode::OK, &json!({ "results": results }))
        }
        (&Method::POST, []) => handshake(&parts.headers),
        (&Method::POST, ["outbox"]) => post(&hub, &own, &parts.headers, &body).await,
        (&Method::POST, ["outbox", id, number]) => {
            chunk(&hub, &own, (id, number), &parts.headers, &body).await
        }
        (&Method::GET, ["outbox", "tracking", local_id]) => track(&hub, &own, local_id),
        (&Method::GET, ["inbox"]) => list(&hub, &own, parts.uri.query().unwrap_or_default()),
        (&Method::GET | &Method::HEAD, ["inbox", id]) => get(&hub, &own, id, 1),
        (&Method::GET, ["inbox", id, number]) => {
            get(&hub, &own, id, number.parse().unwrap_or_default())
        }
        (&Method::PUT, ["inbox", id, "status", "acknowledged"]) => {
            let known = hub.inner().held.iter().find(|h| h.id == **id).cloned();
            match known {
                Some(held) if held.to == own && held.stage == Stage::Accepted => {
                    hub.stage(id, Stage::Acknowledged);
                    StatusCode::OK.into_response()
                }
                Some(held) if held.to == own => StatusCode::GONE.into_response(),
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn handshake(headers: &HeaderMap) -> Response {
    let needed = ["mex-clientversion", "mex-osname", "mex-osversion"];
    if needed.iter().all(|name| headers.contains_key(*name)) {
        StatusCode::OK.into_response()
    } else {
        StatusCode::BAD_REQUEST.into_response()
    }
}

fn range(headers: &HeaderMap) -> Option<(usize, usize)> {
    let Some(text) = headers.get("mex-chunk-range") else {
        return Some((1, 1));
    };
    let (number, of) = text.to_str().ok()?.split_once(':')?;
    Some((number.parse().ok()?, of.parse().ok()?))
}

/// Ends the connection, as a hub does that goes down.
fn hang_up() -> ! {
    std::panic::resume_unwind(Box::new("the hub hung up"))
}

/// Answers that are given whether or not a message was taken; `Ok` says that it is to be taken, and how to answer.
fn before(fault: Option<Fault>, body: &[u8]) -> Result<Option<Fault>, Box<Response>> {
    match fault {
        Some(Fault::DropUntaken) => hang_up(),
        Some(Fault::Later(seconds)) => {
            let hint = [("retry-after", seconds.to_string())];
            Err(Box::new(
                (StatusCode::TOO_MANY_REQUESTS, hint).into_response(),
            ))
        }
        Some(Fault::Unavailable) => Err(Box::new(StatusCode::SERVICE_UNAVAILABLE.into_response())),
        Some(Fault::Refuse(code)) => {
            let words = String::from_utf8_lossy(body);
            Err(Box::new(error(
                StatusCode::EXPECTATION_FAILED,
                code,
                &words,
            )))
        }
        taken => Ok(taken),
    }
}

async fn after(fault: Option<Fault>, answer: Response) -> Response {
    match fault {
        Some(Fault::DropTaken) => hang_up(),
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Garbled) => (StatusCode::ACCEPTED, "taken").into_response(),
        _ => answer,
    }
}

async fn post(hub: &Shared, own: &str, headers: &HeaderMap, body: &[u8]) -> Response {
    let fault = {
        let mut inner = hub.inner();
        let next = inner.next.pop_front();
        next.or(inner.standing)
    };
    let fault = match before(fault, body) {
        Ok(fault) => fault,
        Err(response) => return *response,
    };
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let Some(to) = text("mex-to").filter(|to| [OURS, THEIRS, STRANGE].contains(to)) else {
        return error(
            StatusCode::EXPECTATION_FAILED,
            "12",
            "Unregistered to address",
        );
    };
    let Some(workflow) = text("mex-workflowid") else {
        return error(StatusCode::BAD_REQUEST, "06", "MalformedControlFile");
    };
    if !workflow.starts_with(WORKFLOW) {
        return error(StatusCode::EXPECTATION_FAILED, "17", "not registered");
    }
    if body.is_empty() {
        return error(StatusCode::EXPECTATION_FAILED, "02", "MissingDataFile");
    }
    let Some((1, of)) = range(headers) else {
        return error(StatusCode::EXPECTATION_FAILED, "06", "InvalidHeaderChunks");
    };
    let kept = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str();
        let carried = name.starts_with("mex-") || name == "content-encoding";
        let value = value.to_str().ok().filter(|_| carried)?;
        Some((name.to_owned(), value.to_owned()))
    });
    let mut kept: BTreeMap<String, String> = kept.collect();
    kept.insert("mex-messagetype".to_owned(), "DATA".to_owned());
    let mut chunks = vec![None; of];
    if let Some(first) = chunks.first_mut() {
        *first = Some(body.to_vec());
    }
    let stage = if of == 1 {
        Stage::Accepted
    } else {
        Stage::Uploading
    };
    let id = hub.keep(own, to, stage, kept, chunks);
    let answer = says(StatusCode::ACCEPTED, &json!({ "message_id": id }));
    after(fault, answer).await
}

async fn chunk(
    hub: &Shared,
    own: &str,
    (id, number): (&str, &str),
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let fault = hub.inner().next_chunk.pop_front();
    let fault = match before(fault, body) {
        Ok(fault) => fault,
        Err(response) => return *response,
    };
    let refused = {
        let mut inner = hub.inner();
        let held = inner.held.iter_mut().find(|h| h.id == id && h.from == own);
        let number: usize = number.parse().unwrap_or_default();
        match held {
            None => Some(StatusCode::NOT_FOUND),
            Some(held) if held.stage != Stage::Uploading => Some(StatusCode::LOCKED),
            Some(held) => {
                let of = held.chunks.len();
                let encoding = headers
                    .get("content-encoding")
                    .and_then(|v| v.to_str().ok());
                let same = held.headers.get("content-encoding").map(String::as_str) == encoding;
                match held.chunks.get_mut(number.wrapping_sub(1)) {
                    None => Some(StatusCode::NOT_ACCEPTABLE),
                    Some(_) if range(headers) != Some((number, of)) || !same => {
                        Some(StatusCode::EXPECTATION_FAILED)
                    }
                    Some(slot) => {
                        *slot = Some(body.to_vec());
                        if held.chunks.iter().all(Option::is_some) {
                            held.stage = Stage::Accepted;
                        }
                        None
                    }
                }
            }
        }
    };
    if let Some(status) = refused {
        return status.into_response();
    }
    after(fault, StatusCode::ACCEPTED.into_response()).await
}

fn track(hub: &Shared, own: &str, local_id: &str) -> Response {
    let inner = hub.inner();
    let of_id = |held: &&Held| {
        held.from == own && held.headers.get("mex-localid").map(String::as_str) == Some(local_id)
    };
    let mut found = inner.held.iter().filter(of_id);
    match (found.next(), found.next()) {
        (None, _) => StatusCode::NOT_FOUND.into_response(),
        (Some(_), Some(_)) => StatusCode::MULTIPLE_CHOICES.into_response(),
        (Some(held), None) => {
            let status = format!("{:?}", held.stage);
            let answer = json!({"messageId": held.id, "localId": local_id, "status": status});
            says(StatusCode::OK, &answer)
        }
    }
}

fn list(hub: &Shared, own: &str, query: &str) -> Response {
    let place = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("continue_from="));
    let ids = hub.inbox(own);
    let from = place.and_then(|place| ids.iter().position(|id| id == place));
    let from = from.unwrap_or_default();
    let page: Vec<&String> = ids.iter().skip(from).take(PAGE).collect();
    let this = format!("/messageexchange/{own}/inbox");
    let mut links = json!({ "self": this });
    if let (Some(next), Some(links)) = (ids.get(from + PAGE), links.as_object_mut()) {
        let next = format!("{this}?continue_from={next}");
        links.insert("next".to_owned(), next.into());
    }
    let body = json!({"messages": page, "links": links, "approx_inbox_count": ids.len()});
    says(StatusCode::OK, &body)
}

fn get(hub: &Shared, own: &str, id: &str, number: usize) -> Response {
    let inner = hub.inner();
    let Some(held) = inner.held.iter().find(|held| held.id == id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if held.to != own {
        return StatusCode::FORBIDDEN.into_response();
    }
    if held.stage != Stage::Accepted {
        return StatusCode::GONE.into_response();
    }
    let last = number >= held.chunks.len();
    let mut response = Response::builder().status(if last {
        StatusCode::OK
    } else {
        StatusCode::PARTIAL_CONTENT
    });
    for (name, value) in &held.headers {
        response = response.header(name, value);
    }
    if !held.from.is_empty() {
        response = response.header("mex-from", &held.from);
    }
    let range = format!("{number}:{}", held.chunks.len());
    response = response
        .header("mex-chunk-range", range)
        .header("mex-messageid", id);
    let bytes = match held.chunks.get(number.wrapping_sub(1)) {
        Some(Some(bytes)) => bytes.clone(),
        _ if held.chunks.is_empty() => Vec::new(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    response
        .body(Body::from(bytes))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
