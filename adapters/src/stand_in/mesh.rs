//! A MESH hub that is stricter than NHS England's sandbox: a header is taken once and within two hours, an
//! acknowledged message is gone, a message sent twice is two, and answers get lost when it is told so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use axum::Router;
use axum::http::HeaderMap;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use waymark_core::time::{Clock, Timestamp};

mod serve;

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

/// How far a header's time may lie from the hub's, either way.
const WINDOW_MS: i64 = 2 * 3_600_000;

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
    address: Option<SocketAddr>,
    shared: Arc<Shared>,
    serving: JoinSet<()>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub that whoever wants one serves: its [`Hub::routes`] are all of it.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let inner = Mutex::default();
        Self {
            address: None,
            shared: Arc::new(Shared { inner, clock }),
            serving: JoinSet::new(),
        }
    }

    /// What it answers.
    pub fn routes(&self) -> Router {
        Router::new()
            .fallback(serve::serve)
            .with_state(Arc::clone(&self.shared))
    }

    /// Opens a hub over plain HTTP on this machine.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn open(clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut hub = Self::new(clock);
        hub.address = Some(listener.local_addr()?);
        let routes = hub.routes();
        hub.serving.spawn(async move {
            // It ends with the hub.
            let _ended = axum::serve(listener, routes).await;
        });
        Ok(hub)
    }

    /// Its port; 0 where it has none of its own.
    pub fn port(&self) -> u16 {
        self.address.map_or(0, |address| address.port())
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

    /// Loses a chunk of a message, from 1.
    pub fn lose_chunk(&self, id: &str, number: usize) {
        for held in &mut self.shared.inner().held {
            if held.id == id
                && let Some(chunk) = held.chunks.get_mut(number.wrapping_sub(1))
            {
                *chunk = None;
            }
        }
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
