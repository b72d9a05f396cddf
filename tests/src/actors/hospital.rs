//! A hospital's system behind MLLP: takes referrals once per MSH-10, and can be down, slow of mind or lose its answer.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Connections that wait to be taken.
const BACKLOG: u32 = 64;
/// Bytes of the longest frame.
const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest that an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What the hospital does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// Applies it and says AA; one that it has already is answered AE with 205.
    Take,
    /// Applies it, and drops the connection before it answers.
    ApplyAndDrop,
    /// Says AR with 207: an error of its own that passes.
    Later,
    /// Says AE with 102: it wants no such message.
    Refuse,
    /// Applies it, and answers nothing while the connection lasts.
    Silent,
    /// Applies it, and answers by a status (RRI) that asks for a commit acknowledgement.
    Tell(Told),
    /// Applies it, and says AA in another hospital's name.
    Impostor,
}

/// A status in an answer: RF1-1, and the referral that RF1-6 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The referral of the message.
    Of(&'static str),
    /// Another referral that it has.
    OfAnother(&'static str),
    /// None.
    OfNone(&'static str),
}

/// One message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// MSH-10.
    pub control_id: String,
    /// MSH-9, e.g. `REF^I12`: its first two components.
    pub kind: String,
    /// RF1-6.1: the gateway's reference.
    pub reference: String,
    /// The whole body, without its frame.
    pub text: String,
}

impl Frame {
    fn read(text: String) -> Self {
        let field = |segment: &str, nth: usize| {
            let found = text
                .split('\r')
                .find(|s| s.starts_with(segment))
                .and_then(|s| s.split('|').nth(nth));
            found.unwrap_or_default().to_owned()
        };
        let kind: Vec<String> = field("MSH", 8)
            .split('^')
            .take(2)
            .map(str::to_owned)
            .collect();
        let reference = field("RF1", 6)
            .split('^')
            .next()
            .unwrap_or_default()
            .to_owned();
        Self {
            control_id: field("MSH", 9),
            kind: kind.join("^"),
            reference,
            text,
        }
    }

    /// The segments of a name.
    pub fn segments(&self, name: &str) -> Vec<&str> {
        self.text
            .split('\r')
            .filter(|s| s.starts_with(name))
            .collect()
    }
}

#[derive(Default)]
struct State {
    next: VecDeque<Play>,
    failing: Option<String>,
    frames: Vec<Frame>,
    applied: Vec<Frame>,
    known: BTreeSet<String>,
    commits: Vec<String>,
    standing: Option<&'static str>,
    connections: usize,
}

/// A hospital.
pub struct Hospital {
    port: u16,
    state: Arc<Mutex<State>>,
    held: Option<TcpSocket>,
    serving: Option<JoinSet<()>>,
}

impl std::fmt::Debug for Hospital {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hospital")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port that is ours and refuses every connection, because nobody listens on it.
fn hold(port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

impl Hospital {
    /// A hospital whose port refuses connections.
    ///
    /// # Errors
    /// When there is no port.
    pub fn closed() -> anyhow::Result<Self> {
        let held = hold(0)?;
        Ok(Self {
            port: held.local_addr()?.port(),
            state: Arc::default(),
            held: Some(held),
            serving: None,
        })
    }

    /// A hospital that takes what comes.
    ///
    /// # Errors
    /// When there is no port.
    pub fn open() -> anyhow::Result<Self> {
        let mut hospital = Self::closed()?;
        hospital.up()?;
        Ok(hospital)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// When its port cannot be listened on.
    pub fn up(&mut self) -> anyhow::Result<()> {
        let Some(held) = self.held.take() else {
            bail!("the hospital is up")
        };
        let listener = held.listen(BACKLOG)?;
        let state = Arc::clone(&self.state);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, state));
        self.serving = Some(serving);
        Ok(())
    }

    /// Ends every connection and refuses new ones.
    ///
    /// # Errors
    /// When the port was lost.
    pub async fn down(&mut self) -> anyhow::Result<()> {
        let Some(mut serving) = self.serving.take() else {
            bail!("the hospital is down")
        };
        serving.shutdown().await;
        self.held = Some(hold(self.port).context("hold the port")?);
        Ok(())
    }

    /// What it does with the next messages, one each; then it takes what comes.
    pub fn play(&self, plays: &[Play]) {
        lock(&self.state).next.extend(plays);
    }

    /// Puts off every message that holds a text, until told otherwise.
    pub fn failing(&self, text: Option<&str>) {
        lock(&self.state).failing = text.map(str::to_owned);
    }

    /// What it says to status requests (REF^I15) as RF1-1; until told, it says nothing to them.
    pub fn stands(&self, code: &'static str) {
        lock(&self.state).standing = Some(code);
    }

    /// MSA-1 of the acknowledgements that its own answers got, in order.
    pub fn commits(&self) -> Vec<String> {
        lock(&self.state).commits.clone()
    }

    /// How many connections it took.
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }

    /// Every message that came, answered or not.
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.state).frames.clone()
    }

    /// What its application holds, in the order in which it was applied.
    pub fn applied(&self) -> Vec<Frame> {
        lock(&self.state).applied.clone()
    }

    /// What it holds of one referral.
    pub fn applied_of(&self, reference: &str) -> Vec<Frame> {
        self.applied()
            .into_iter()
            .filter(|f| f.reference == reference)
            .collect()
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _peer)) = listener.accept().await {
        let state = Arc::clone(&state);
        lock(&state).connections += 1;
        open.spawn(async move {
            // A broken connection is the sender's to notice.
            let _ended: anyhow::Result<()> = connection(stream, &state).await;
        });
        while open.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream, state: &Mutex<State>) -> anyhow::Result<()> {
    while let Some(text) = read_frame(&mut stream).await? {
        let frame = Frame::read(text);
        if frame.kind.starts_with("ACK") {
            let segments = frame.segments("MSA");
            let msa = segments.first().and_then(|msa| msa.get(4..6));
            lock(state).commits.extend(msa.map(str::to_owned));
            continue;
        }
        let decided = decide(&mut lock(state), &frame);
        let (code, number) = match decided {
            Answer::Say(code, number) => (code, number),
            Answer::Drop => return Ok(()),
            Answer::Wait => continue,
            Answer::Standing(code) => {
                write_frame(&mut stream, &standing(&frame, code)).await?;
                continue;
            }
            Answer::Status(code, reference) => {
                write_frame(&mut stream, &status(&frame, code, &reference)).await?;
                continue;
            }
            Answer::Elsewhere => {
                let answer = acknowledgement(&frame, "ELSEWHERE|RZZ", "AA");
                write_frame(&mut stream, &answer).await?;
                continue;
            }
        };
        let mut answer = acknowledgement(&frame, "EPR|R1L", code);
        if let Some(number) = number {
            answer = format!("{answer}ERR||MSH^1^10|{number}^^HL70357|E\r");
        }
        write_frame(&mut stream, &answer).await?;
    }
    Ok(())
}

/// What becomes of a message's connection.
enum Answer {
    /// An acknowledgement, with an error's code.
    Say(&'static str, Option<u16>),
    /// It is closed.
    Drop,
    /// It stays, silent.
    Wait,
    /// Where a referral stands, as RF1-1.
    Standing(&'static str),
    /// A status of a referral.
    Status(&'static str, String),
    /// An acknowledgement in somebody else's name.
    Elsewhere,
}

/// An acknowledgement by MSH-3 and 4.
fn acknowledgement(frame: &Frame, by: &str, code: &str) -> String {
    let id = &frame.control_id;
    format!(
        "MSH|^~\\&|{by}|WAYMARK|SOUTHMERE|20260302100000||ACK^I12^ACK|A{id}|T|2.5\rMSA|{code}|{id}\r"
    )
}

/// The answer to a referral: RRI with the event of its message.
fn status(asked: &Frame, code: &str, reference: &str) -> String {
    let id = &asked.control_id;
    let event = asked.kind.split('^').next_back().unwrap_or_default();
    [
        format!(
            "MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|20260302100000||RRI^{event}^RRI_I12|S{id}|T|2.5|||AL|NE"
        ),
        format!("MSA|AA|{id}"),
        format!("RF1|{code}^^HL70283|||||{reference}^WAYMARK||||||R{id}^EPR"),
        "PRD|RT^Referred to Provider^HL70286||||||R1L^ODS".to_owned(),
        format!("PID|1||{id}^^^WAYMARK^VN||^^^^^^U"),
        String::new(),
    ]
    .join("\r")
}

/// The answer to a status request: RRI^I15.
fn standing(asked: &Frame, code: &str) -> String {
    let (id, reference) = (&asked.control_id, &asked.reference);
    [
        format!("MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|20260302100000||RRI^I15^RRI_I12|S{id}|T|2.5"),
        format!("MSA|AA|{id}"),
        format!("RF1|{code}^^HL70283|||||{reference}^WAYMARK||||||R1L-77^EPR"),
        "PRD|RT^Referred to Provider^HL70286||||||R1L^ODS".to_owned(),
        format!("PID|1||{reference}^^^WAYMARK^VN||^^^^^^U"),
        String::new(),
    ]
    .join("\r")
}

fn decide(state: &mut State, frame: &Frame) -> Answer {
    state.frames.push(frame.clone());
    if frame.kind == "REF^I15" {
        // What it has cancelled has ended.
        let mut applied = state.applied.iter();
        let ended = applied.any(|f| f.kind == "REF^I14" && f.reference == frame.reference);
        let stands = state.standing.map(|code| if ended { "E" } else { code });
        return stands.map_or(Answer::Wait, Answer::Standing);
    }
    let failing = state
        .failing
        .as_ref()
        .is_some_and(|text| frame.text.contains(text.as_str()));
    let play = if failing {
        Play::Later
    } else {
        state.next.pop_front().unwrap_or(Play::Take)
    };
    match play {
        Play::Later => return Answer::Say("AR", Some(207)),
        Play::Refuse => return Answer::Say("AE", Some(102)),
        Play::Take | Play::ApplyAndDrop | Play::Silent | Play::Tell(_) | Play::Impostor => {}
    }
    let fresh = state.known.insert(frame.control_id.clone());
    if fresh {
        state.applied.push(frame.clone());
    }
    match (play, fresh) {
        (Play::ApplyAndDrop, _) => Answer::Drop,
        (Play::Silent, _) => Answer::Wait,
        (Play::Tell(told), _) => {
            let mut others = state.applied.iter().map(|f| f.reference.clone());
            match told {
                Told::Of(code) => Answer::Status(code, frame.reference.clone()),
                Told::OfNone(code) => Answer::Status(code, String::new()),
                Told::OfAnother(code) => {
                    let other = others.find(|reference| *reference != frame.reference);
                    Answer::Status(code, other.unwrap_or_default())
                }
            }
        }
        (Play::Impostor, _) => Answer::Elsewhere,
        (_, true) => Answer::Say("AA", None),
        (_, false) => Answer::Say("AE", Some(205)),
    }
}

async fn read_frame(stream: &mut TcpStream) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x1c\r") {
        match stream.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) if bytes.is_empty() => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if bytes.len() > FRAME_BYTES_MAX {
            bail!("a frame of more than {FRAME_BYTES_MAX} bytes");
        }
    }
    let body = bytes
        .strip_prefix(b"\x0b")
        .and_then(|b| b.strip_suffix(b"\x1c\r"))
        .context("a frame")?;
    Ok(Some(String::from_utf8(body.to_vec())?))
}

async fn write_frame(stream: &mut TcpStream, text: &str) -> anyhow::Result<()> {
    stream
        .write_all(&[b"\x0b", text.as_bytes(), b"\x1c\r"].concat())
        .await?;
    Ok(stream.flush().await?)
}

/// Sends one message to an MLLP listener and gives its acknowledgement.
///
/// # Errors
/// When no acknowledgement comes.
pub async fn send(address: SocketAddr, message: &str) -> anyhow::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        write_frame(&mut stream, message).await?;
        read_frame(&mut stream)
            .await?
            .context("the listener closed without an answer")
    };
    tokio::time::timeout(ANSWER_TIMEOUT, talk)
        .await
        .context("no answer in time")?
}

/// The hospital's news of an appointment: SIU^`event` of a referral of ours, on a day.
pub fn siu(control_id: &str, event: &str, reference: &str, day: &str) -> String {
    [
        format!(
            "MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|20260302110000||SIU^{event}^SIU_S12|{control_id}|T|2.4"
        ),
        format!(
            "SCH||APT-{control_id}^EPR||||NORMAL^Normal^HL70276|||||^^^{day}103000|||||R1L||||R1L||||||\
             {reference}^WAYMARK"
        ),
        "RGS|1".to_owned(),
        "AIS|1||PAEDS^Paediatric clinic".to_owned(),
        String::new(),
    ]
    .join("\r")
}

/// The hospital's unsolicited answer to a referral: RRI^I12 with RF1-1 `code`, under a message id of its own.
pub fn rri(control_id: &str, reference: &str, code: &str) -> String {
    [
        format!(
            "MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|20260302110000||RRI^I12^RRI_I12|{control_id}|T|2.5"
        ),
        format!("RF1|{code}^^HL70283|||||{reference}^WAYMARK||||||R1L-77^EPR"),
        "PRD|RT^Referred to Provider^HL70286|Hale^Imogen|||||R1L^ODS".to_owned(),
        format!("PID|1||{reference}^^^WAYMARK^VN||^^^^^^U"),
        String::new(),
    ]
    .join("\r")
}
