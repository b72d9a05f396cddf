//! A MESH hub that is stricter than NHS England's sandbox: a header is taken once and within two hours, an
//! acknowledged message is gone, a message sent twice is two, and answers get lost when it is told so.
//!
//! The adapters' own tests include this file too, so that there is one such hub.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use waymark_core::time::{Clock, Timestamp};

/// The mailbox of the gateway.
pub const OURS: &str = "X26ABC1";
/// The mailbox of the agency.
pub const THEIRS: &str = "X26ABC2";
/// A mailbox that nobody's directory knows.
pub const STRANGE: &str = "X26ABC3";
/// The password of every mailbox.
pub const PASSWORD: &str = "password";
/// The key of the environment.
pub const SHARED_KEY: &str = "TestKey";
/// The workflow of the tests.
pub const WORKFLOW: &str = "SEND_REFERRAL";
/// What the endpoint lookup knows the agency by.
pub const ODS: &str = "R1L";

const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How far a header's time may lie from the hub's, either way.
const WINDOW_MS: i64 = 2 * 3_600_000;
/// Messages of one page of the inbox, however many were asked for.
const PAGE: usize = 10;

/// What the hub does with the next request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Takes it, and the connection ends without an answer.
    DropTaken,
    /// The connection ends, and nothing was taken.
    DropUntaken,
    /// Takes it, and never answers.
    Silent,
    /// Takes it, and what it says of it is no JSON.
    Garbled,
    /// 429, to be tried again in so many seconds; nothing was taken.
    Later(u64),
    /// 503; nothing was taken.
    Unavailable,
    /// 417 with this error code, in words that repeat what was sent.
    Refuse(&'static str),
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Chunks are missing.
    Uploading,
    /// In its receiver's inbox.
    Accepted,
    /// Its receiver acknowledged it.
    Acknowledged,
    /// It was given back.
    Undeliverable,
}

/// A message as the hub holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// The hub's id.
    pub id: String,
    /// The sending mailbox; empty for a report.
    pub from: String,
    /// The receiving mailbox.
    pub to: String,
    /// Where it stands.
    pub stage: Stage,
    /// Its headers, lower case.
    pub headers: BTreeMap<String, String>,
    /// Its chunks as they came, packed or not.
    pub chunks: Vec<Option<Vec<u8>>>,
}

#[derive(Default)]
struct Inner {
    held: Vec<Held>,
    tokens: BTreeSet<String>,
    requests: Vec<String>,
    refused: Vec<String>,
    next: VecDeque<Fault>,
    next_chunk: VecDeque<Fault>,
    standing: Option<Fault>,
    password: Option<String>,
}

struct Shared {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hub.
pub struct Hub {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Opens a hub over plain HTTP on this machine.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn open(clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let inner = Mutex::default();
        let shared = Arc::new(Shared { inner, clock });
        let app = Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&shared));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // It ends with the test.
            let _ended = axum::serve(listener, app).await;
        });
        Ok(Self {
            address,
            shared,
            _serving: serving,
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it does with the next requests to send, one each.
    pub fn play(&self, faults: &[Fault]) {
        self.shared.inner().next.extend(faults);
    }

    /// What it does with the next chunks after a first, one each.
    pub fn play_chunks(&self, faults: &[Fault]) {
        self.shared.inner().next_chunk.extend(faults);
    }

    /// What it does with every request to send from now on.
    pub fn always(&self, fault: Option<Fault>) {
        self.shared.inner().standing = fault;
    }

    /// Changes the password of every mailbox.
    pub fn password(&self, password: &str) {
        self.shared.inner().password = Some(password.to_owned());
    }

    /// Puts a message into the inbox of `to`, as `from` would; `headers` beside the common ones, lower case.
    pub fn put(
        &self,
        from: &str,
        to: &str,
        workflow: &str,
        headers: &[(&str, &str)],
        chunks: &[&[u8]],
    ) -> String {
        let mut all = BTreeMap::from([
            ("mex-workflowid".to_owned(), workflow.to_owned()),
            ("mex-messagetype".to_owned(), "DATA".to_owned()),
        ]);
        for (name, value) in headers {
            all.insert((*name).to_owned(), (*value).to_owned());
        }
        let chunks = chunks.iter().map(|c| Some(c.to_vec())).collect();
        self.shared.keep(from, to, Stage::Accepted, all, chunks)
    }

    /// Every message that it was sent, in order.
    pub fn held(&self) -> Vec<Held> {
        self.shared.inner().held.clone()
    }

    /// Ids of what lies in an inbox.
    pub fn inbox(&self, mailbox: &str) -> Vec<String> {
        self.shared.inbox(mailbox)
    }

    /// What was asked of it: method and path.
    pub fn requests(&self) -> Vec<String> {
        self.shared.inner().requests.clone()
    }

    /// Why it turned requests away.
    pub fn refused(&self) -> Vec<String> {
        self.shared.inner().refused.clone()
    }

    /// Its receiver acknowledges a message.
    pub fn collect(&self, id: &str) {
        self.shared.stage(id, Stage::Acknowledged);
    }

    /// Five days have gone by: a message is given back, and its sender gets a report.
    pub fn expire(&self, id: &str) {
        self.shared.stage(id, Stage::Undeliverable);
        let held = self.held().into_iter().find(|held| held.id == id);
        let Some(held) = held else {
            return;
        };
        let mut headers = held.headers;
        headers.retain(|name, _| ["mex-workflowid", "mex-localid"].contains(&name.as_str()));
        for (name, value) in [
            ("mex-messagetype", "REPORT"),
            ("mex-linkedmsgid", id),
            ("mex-statuscode", "14"),
            ("mex-statusevent", "SEND"),
            ("mex-statussuccess", "ERROR"),
            (
                "mex-statusdescription",
                "Message not collected by recipient after 5 days",
            ),
        ] {
            headers.insert(name.to_owned(), value.to_owned());
        }
        self.shared
            .keep("", &held.from, Stage::Accepted, headers, Vec::new());
    }
}

impl Shared {
    fn keep(
        &self,
        from: &str,
        to: &str,
        stage: Stage,
        mut headers: BTreeMap<String, String>,
        chunks: Vec<Option<Vec<u8>>>,
    ) -> String {
        let at = self.clock.now();
        headers
            .entry("mex-statustimestamp".to_owned())
            .or_insert_with(|| stamp(at, "%Y%m%d%H%M%S"));
        let mut inner = self.inner();
        let id = format!("20260302100000000_{:06}", inner.held.len() + 1);
        inner.held.push(Held {
            id: id.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            stage,
            headers,
            chunks,
        });
        id
    }

    fn stage(&self, id: &str, stage: Stage) {
        for held in &mut self.inner().held {
            if held.id == id {
                held.stage = stage;
            }
        }
    }

    fn inbox(&self, mailbox: &str) -> Vec<String> {
        let inner = self.inner();
        let waiting = inner
            .held
            .iter()
            .filter(|held| held.to == mailbox && held.stage == Stage::Accepted);
        waiting.map(|held| held.id.clone()).collect()
    }

    /// Checks a header; the words say what is wrong with it.
    fn admits(&self, mailbox: Option<&str>, headers: &HeaderMap) -> Result<String, String> {
        let header = headers.get("authorization").and_then(|h| h.to_str().ok());
        let token = header
            .and_then(|h| h.strip_prefix("NHSMESH "))
            .ok_or("no NHSMESH header")?;
        let parts: Vec<&str> = token.split(':').collect();
        let [own, nonce, count, at, mac] = parts.as_slice() else {
            return Err("the token has not five parts".to_owned());
        };
        if mailbox.is_some_and(|mailbox| mailbox != *own) {
            return Err("Mailbox id does not match token".to_owned());
        }
        let password = self.inner().password.clone();
        let password = password.as_deref().unwrap_or(PASSWORD);
        let signed = format!("{own}:{nonce}:{count}:{password}:{at}");
        let tag = sign(
            &Key::new(HMAC_SHA256, SHARED_KEY.as_bytes()),
            signed.as_bytes(),
        );
        let expected: Vec<String> = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        if expected.concat() != **mac {
            return Err("Invalid Authentication Token".to_owned());
        }
        let read = jiff::civil::DateTime::strptime("%Y%m%d%H%M", at)
            .and_then(|at| jiff::tz::TimeZone::UTC.to_timestamp(at))
            .map_err(|_| "no time")?;
        let away = self.clock.now().as_ms() - read.as_millisecond();
        if away.abs() > WINDOW_MS {
            return Err("the time is not within two hours".to_owned());
        }
        if !self.inner().tokens.insert(token.to_owned()) {
            return Err("Error Duplicated Authentication Token".to_owned());
        }
        Ok((*own).to_owned())
    }
}

fn stamp(at: Timestamp, form: &str) -> String {
    jiff::Timestamp::from_millisecond(at.as_ms())
        .map(|at| at.strftime(form).to_string())
        .unwrap_or_default()
}

fn says(status: StatusCode, body: &Value) -> Response {
    (status, body.to_string()).into_response()
}

fn error(status: StatusCode, code: &str, words: &str) -> Response {
    let detail = json!({"event": "SEND", "code": code, "msg": words});
    says(status, &json!({"message_id": "", "detail": [detail]}))
}

async fn serve(State(hub): State<Arc<Shared>>, request: Request) -> Response {
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
