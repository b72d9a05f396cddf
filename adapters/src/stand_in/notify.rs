//! A stand-in for GOV.UK Notify (REST API, version 2): tokens, templates, limits, statuses and receipts. The real
//! client checks that it is one (`tests/it/interop/notify.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use waymark_core::time::Clock;

/// Bytes of the longest request.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Messages of one page of a list.
const PAGE: usize = 250;
/// How long a receipt may take to be heard.
const CALLBACK_WITHIN: Duration = Duration::from_secs(10);
/// Seconds that a token may be old or early.
const CLOCK_SECONDS: i64 = 30;
/// The service that the stand-in knows.
const SERVICE: &str = "26785a09-ab16-4eb0-8407-a37497a57506";
/// Its key's secret.
const SECRET: &str = "3d844edf-8d35-48ac-975b-e847b4f122b0";
/// Fields of a request, by way, that the API's schema has.
const COMMON: [&str; 3] = ["template_id", "personalisation", "reference"];

/// What it answers to the next message, instead of taking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 429 for the minute, with this hint where there is one.
    RateLimit(Option<u64>),
    /// 429 for the day.
    DayLimit,
    /// 400 with this error's word; its message repeats what was sent.
    Refused(&'static str),
    /// 500, and the message is taken all the same.
    BrokeAfter,
    /// No answer, and the message is taken all the same.
    Silent,
}

/// One message that it took.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// The sender's reference.
    pub reference: String,
    /// `email`, `sms` or `letter`.
    pub way: String,
    /// What was asked for.
    pub body: Value,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its status.
    pub status: String,
}

#[derive(Default)]
struct Seen {
    messages: Vec<Message>,
    templates: BTreeMap<String, (String, Vec<String>)>,
    next: VecDeque<Answer>,
    always: Option<Answer>,
    token: String,
    asked: usize,
}

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Seen>>,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stand-in.
pub struct Notify {
    address: Option<SocketAddr>,
    shared: Shared,
    serving: JoinSet<()>,
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notify")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Notify {
    /// A provider that whoever wants one serves: its [`Notify::routes`] are all of it.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let seen = Arc::default();
        Self {
            address: None,
            shared: Shared { seen, clock },
            serving: JoinSet::new(),
        }
    }

    /// What it answers.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/v2/notifications", get(list))
            .route("/v2/notifications/{id}", get(one).post(take))
            .route("/v2/template/{id}", get(template))
            .route("/v2/templates", get(templates))
            .with_state(self.shared.clone())
    }

    /// Listens over plain HTTP on a port of its own.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(clock: Arc<dyn Clock>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut notify = Self::new(clock);
        notify.address = Some(listener.local_addr()?);
        let routes = notify.routes();
        notify.serving.spawn(async move {
            // It ends with the provider.
            let _ended: io::Result<()> = axum::serve(listener, routes).await;
        });
        Ok(notify)
    }

    /// Where it is; empty where it has no port of its own.
    pub fn url(&self) -> String {
        let url = |address| format!("http://{address}");
        self.address.map(url).unwrap_or_default()
    }

    /// A key that it takes.
    pub fn key() -> String {
        format!("a-test-key-{SERVICE}-{SECRET}")
    }

    /// The secret of that key.
    pub const fn secret() -> &'static str {
        SECRET
    }

    /// Knows a template of a way, and the fields that it needs.
    pub fn template(&self, id: &str, way: &str, fields: &[&str]) {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        let mut seen = self.shared.seen();
        seen.templates
            .insert(id.to_owned(), (way.to_owned(), fields));
    }

    /// What it answers to the next messages, one each; then it takes what comes.
    pub fn play(&self, next: &[Answer]) {
        self.shared.seen().next.extend(next);
    }

    /// What it answers to every message from now on; `None` takes what comes.
    pub fn always(&self, answer: Option<Answer>) {
        self.shared.seen().always = answer;
    }

    /// Every message that it took, in order.
    pub fn messages(&self) -> Vec<Message> {
        self.shared.seen().messages.clone()
    }

    /// The token of the last request.
    pub fn last_token(&self) -> String {
        self.shared.seen().token.clone()
    }

    /// How often it was asked after messages.
    pub fn asked(&self) -> usize {
        self.shared.seen().asked
    }

    /// What becomes of the messages of a reference; nobody is called.
    pub fn becomes(&self, reference: &str, status: &str) {
        let mut seen = self.shared.seen();
        for message in &mut seen.messages {
            if message.reference == reference {
                status.clone_into(&mut message.status);
            }
        }
    }

    /// Posts a receipt of a message to an address, as its status or as another; answers the HTTP status.
    ///
    /// # Errors
    /// When there is no such message, or the gateway does not answer.
    pub async fn calls_back(
        &self,
        to: &Callbacks,
        reference: &str,
        status: &str,
    ) -> io::Result<u16> {
        let messages = self.messages();
        let message = messages.iter().find(|m| m.reference == reference);
        let message = message.ok_or_else(|| io::Error::other("no such message"))?;
        let ca = reqwest::Certificate::from_pem(&to.ca).map_err(io::Error::other)?;
        let client = reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_only([ca])
            .no_proxy()
            .timeout(CALLBACK_WITHIN)
            .build()
            .map_err(io::Error::other)?;
        let receipt = json!({
            "id": message.id, "reference": message.reference, "to": recipient(&message.body), "status": status,
            "created_at": "2026-11-25T10:00:00.000000Z", "completed_at": "2026-11-25T10:01:00.000000Z",
            "sent_at": "2026-11-25T10:00:30.000000Z", "notification_type": message.way,
            "template_id": message.body.get("template_id"), "template_version": 1,
        });
        let response = client
            .post(&to.url)
            .header(header::AUTHORIZATION, format!("Bearer {}", to.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(receipt.to_string())
            .send()
            .await
            .map_err(io::Error::other)?;
        Ok(response.status().as_u16())
    }
}

/// Where receipts go.
#[derive(Clone, Debug)]
pub struct Callbacks {
    /// The address.
    pub url: String,
    /// The token that they bear.
    pub token: String,
    /// Whom to trust, PEM.
    pub ca: Vec<u8>,
}

fn recipient(body: &Value) -> Option<&str> {
    let field = |name| body.get(name).and_then(Value::as_str);
    field("email_address").or_else(|| field("phone_number"))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, body.to_string()).into_response()
}

/// An error as the API writes it.
fn refuse(status: StatusCode, error: &str, message: &str) -> Response {
    let body = json!({
        "status_code": status.as_u16(), "errors": [{ "error": error, "message": message }],
    });
    answer(status, &body)
}

/// Whether a request bears a token of the service, made within 30 seconds; what is said else.
fn token_fault(token: &str, now_seconds: i64) -> Option<&'static str> {
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, tag] = parts.as_slice() else {
        return Some("Invalid token: not signed");
    };
    let json = |part: &str| -> Option<Value> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let (Some(header), Some(body)) = (json(head), json(claims)) else {
        return Some("Invalid token: not JSON");
    };
    if header.get("alg") != Some(&json!("HS256")) || header.get("typ") != Some(&json!("JWT")) {
        return Some("Invalid token: algorithm used is not HS256");
    }
    if body.get("iss") != Some(&json!(SERVICE)) {
        return Some("Invalid token: service not found");
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = URL_SAFE_NO_PAD.decode(tag).unwrap_or_default();
    if hmac::verify(&key, format!("{head}.{claims}").as_bytes(), &tag).is_err() {
        return Some("Invalid token: API key not found");
    }
    let issued = body.get("iat").and_then(Value::as_i64).unwrap_or_default();
    ((issued - now_seconds).abs() > CLOCK_SECONDS)
        .then_some("Error: Your system clock must be accurate to within 30 seconds")
}

fn admitted(shared: &Shared, headers: &HeaderMap) -> Result<(), Box<Response>> {
    let no = |status, why: &str| Err(Box::new(refuse(status, "AuthError", why)));
    let bearer = headers.get(header::AUTHORIZATION);
    let token = bearer
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        let why = "Unauthorized: authentication token must be provided";
        return no(StatusCode::UNAUTHORIZED, why);
    };
    token.clone_into(&mut shared.seen().token);
    let now = shared.clock.now().as_ms() / 1_000;
    match token_fault(token, now) {
        Some(why) => no(StatusCode::FORBIDDEN, why),
        None => Ok(()),
    }
}

/// What the API's schema and the template say of a request; the error's word and words.
fn request_fault(seen: &Seen, way: &str, body: &Value) -> Option<(&'static str, String)> {
    let invalid = |why: String| Some(("ValidationError", why));
    let Some(fields) = body.as_object() else {
        return invalid("Invalid JSON".to_owned());
    };
    let own: &[&str] = match way {
        "email" => &[
            "email_address",
            "email_reply_to_id",
            "one_click_unsubscribe_url",
            "sanitise_content_for",
        ],
        "sms" => &["phone_number", "sms_sender_id"],
        _ => &[],
    };
    let unknown = fields.keys().find(|key| {
        let key = key.as_str();
        !COMMON.contains(&key) && !own.contains(&key)
    });
    if let Some(key) = unknown {
        return invalid(format!(
            "Additional properties are not allowed ({key} was unexpected)"
        ));
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    match way {
        "email" if !text("email_address").is_some_and(|to| to.contains('@')) => {
            return invalid("email_address Not a valid email address".to_owned());
        }
        "sms" if text("phone_number").is_none_or(|to| to.len() < 10) => {
            return invalid("phone_number Not enough digits".to_owned());
        }
        _ => {}
    }
    let Some(template) = text("template_id") else {
        return invalid("template_id is a required property".to_owned());
    };
    let bad = |why: String| Some(("BadRequestError", why));
    let Some((kind, needs)) = seen.templates.get(template) else {
        return bad("Template not found".to_owned());
    };
    if kind != way {
        return bad(format!(
            "{kind} template is not suitable for {way} notification"
        ));
    }
    let given = fields.get("personalisation").and_then(Value::as_object);
    let has = |name: &str| given.is_some_and(|given| given.contains_key(name));
    if let Some(missing) = needs.iter().find(|name| !has(name)) {
        return bad(format!("Missing personalisation: {missing}"));
    }
    let lines = (1..=7)
        .filter(|n| has(&format!("address_line_{n}")))
        .count();
    if way == "letter" && lines < 3 {
        return invalid("Address must be at least 3 lines".to_owned());
    }
    None
}

async fn take(
    Extract(shared): Extract<Shared>,
    Path(way): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if let Err(refused) = admitted(&shared, &headers) {
        return *refused;
    }
    if !["email", "sms", "letter"].contains(&way.as_str()) {
        return refuse(StatusCode::NOT_FOUND, "NoResultFound", "No result found");
    }
    let Ok(bytes) = to_bytes(body, BODY_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let answer = {
        let mut seen = shared.seen();
        seen.next.pop_front().or(seen.always)
    };
    match answer {
        Some(Answer::RateLimit(hint)) => {
            let why = "Exceeded rate limit for key type TEAM of 3000 requests per 60 seconds";
            let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "RateLimitError", why);
            if let Some(hint) = hint {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, hint.into());
            }
            return response;
        }
        Some(Answer::DayLimit) => {
            let why = "Exceeded send limits (email: 50) for today";
            return refuse(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsError", why);
        }
        Some(Answer::Refused(word)) => {
            let words = String::from_utf8_lossy(&bytes).into_owned();
            return refuse(StatusCode::BAD_REQUEST, word, &words);
        }
        Some(Answer::BrokeAfter | Answer::Silent) | None => {}
    }
    let response = keep(&shared, &way, &bytes);
    match answer {
        Some(Answer::Silent) => std::future::pending().await,
        Some(Answer::BrokeAfter) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Exception",
            "Internal server error",
        ),
        _ => response,
    }
}

/// Takes a message, or says what is wrong with it.
fn keep(shared: &Shared, way: &str, bytes: &[u8]) -> Response {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let mut seen = shared.seen();
    if let Some((word, why)) = request_fault(&seen, way, &body) {
        return refuse(StatusCode::BAD_REQUEST, word, &why);
    }
    let text = |name: &str| {
        let value = body.get(name).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let message = Message {
        id: uuid::Uuid::new_v4().to_string(),
        reference: text("reference"),
        way: way.to_owned(),
        body: body.clone(),
        bytes: bytes.to_vec(),
        status: "created".to_owned(),
    };
    let template = text("template_id");
    let taken = json!({
        "id": message.id, "reference": body.get("reference"), "uri": format!("/v2/notifications/{}", message.id),
        "content": { "subject": "What happens next", "body": "Words that the template has." },
        "template": { "id": template, "version": 1, "uri": format!("/v2/template/{template}") },
        "scheduled_for": null,
    });
    seen.messages.push(message);
    answer(StatusCode::CREATED, &taken)
}

fn shown(message: &Message) -> Value {
    let text = |name: &str| message.body.get(name).cloned().unwrap_or(Value::Null);
    json!({
        "id": message.id, "reference": text("reference"), "type": message.way, "status": message.status,
        "email_address": text("email_address"), "phone_number": text("phone_number"),
        "template": { "id": text("template_id"), "version": 1 }, "created_at": "2026-11-25T10:00:00.000000Z",
        "sent_at": null, "completed_at": null, "body": "Words that the template has.",
    })
}

async fn one(
    Extract(shared): Extract<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = admitted(&shared, &headers) {
        return *refused;
    }
    let mut seen = shared.seen();
    seen.asked += 1;
    match seen.messages.iter().find(|message| message.id == id) {
        Some(message) => answer(StatusCode::OK, &shown(message)),
        None => refuse(StatusCode::NOT_FOUND, "NoResultFound", "No result found"),
    }
}

async fn list(Extract(shared): Extract<Shared>, asked: Uri, headers: HeaderMap) -> Response {
    if let Err(refused) = admitted(&shared, &headers) {
        return *refused;
    }
    let mut seen = shared.seen();
    seen.asked += 1;
    let whole = reqwest::Url::parse(&format!("http://notify{asked}"));
    let asked: BTreeMap<String, String> = whole
        .iter()
        .flat_map(|url| url.query_pairs().into_owned())
        .collect();
    let is = |name: &str, value: &str| asked.get(name).is_none_or(|wanted| wanted == value);
    // The newest first; a page begins behind the message that it names.
    let newest: Vec<&Message> = seen.messages.iter().rev().collect();
    let older = asked.get("older_than");
    let from = older.and_then(|id| newest.iter().position(|m| m.id == *id));
    let page: Vec<&Message> = newest
        .into_iter()
        .skip(from.map_or(0, |at| at + 1))
        .filter(|m| {
            is("reference", &m.reference) && is("status", &m.status) && is("template_type", &m.way)
        })
        .take(PAGE)
        .collect();
    let mut links = json!({ "current": "/v2/notifications" });
    if let (Some(last), Some(links)) = (page.last(), links.as_object_mut()) {
        links.insert(
            "next".to_owned(),
            json!(format!("/v2/notifications?older_than={}", last.id)),
        );
    }
    let page: Vec<Value> = page.into_iter().map(shown).collect();
    answer(
        StatusCode::OK,
        &json!({ "notifications": page, "links": links }),
    )
}

async fn templates(Extract(shared): Extract<Shared>, headers: HeaderMap) -> Response {
    if let Err(refused) = admitted(&shared, &headers) {
        return *refused;
    }
    let seen = shared.seen();
    let all = seen.templates.iter();
    let all = all.map(|(id, (way, _))| json!({ "id": id, "type": way, "version": 1 }));
    let all: Vec<Value> = all.collect();
    answer(StatusCode::OK, &json!({ "templates": all }))
}

async fn template(
    Extract(shared): Extract<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = admitted(&shared, &headers) {
        return *refused;
    }
    match shared.seen().templates.get(&id) {
        Some((way, _)) => {
            let words = "Words that the template has.";
            let body = json!({ "id": id, "type": way, "version": 1, "body": words });
            answer(StatusCode::OK, &body)
        }
        None => refuse(StatusCode::NOT_FOUND, "NoResultFound", "No result found"),
    }
}
