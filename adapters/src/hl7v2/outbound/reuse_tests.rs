//! Connections that serve one message after another, and the question before a cancel, on real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use waymark_core::delivery::Kind;
use waymark_core::id::{AgencyId, DeliveryId, WireId};
use waymark_core::leg::LegState;
use waymark_core::port::InboundBody;

use super::*;
use crate::hl7v2::config::tests::{PLAIN, endpoint};
use crate::hl7v2::map::tests::{referral, source};
use crate::hl7v2::testing::{Pki, TestClock, TestIntake, read_frame};

/// What a receiver does with one message.
#[derive(Clone, Copy)]
enum Move {
    /// Answers with this MSA, and RF1-1 if it is a status.
    Say(&'static str, &'static str),
    /// Answers and closes the connection.
    SayAndClose(&'static str),
    /// Closes it without an answer.
    Close,
    /// Answers nothing.
    Wait,
}

/// A receiver that counts what it sees.
#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    frames: std::sync::Mutex<Vec<String>>,
}

impl Seen {
    fn kinds(&self) -> Vec<String> {
        let frames = self.frames.lock().unwrap();
        let kind = |frame: &String| {
            let parts = frame.split('|').nth(8).unwrap().split('^');
            parts.take(2).collect::<Vec<_>>().join("^")
        };
        frames.iter().map(kind).collect()
    }
}

fn answer(frame: &str, msa: &str, rf1: &str) -> String {
    let field = |nth: usize| frame.split('|').nth(nth).unwrap().to_owned();
    let (id, event) = (field(9), field(8).split('^').nth(1).unwrap().to_owned());
    let (code, error) = msa.split_once(';').unwrap_or((msa, ""));
    let (kind, rest) = if rf1.is_empty() {
        (format!("ACK^{event}^ACK"), error.to_owned())
    } else {
        let rest = format!("RF1|{rf1}|||||WM-1^WAYMARK\rPRD|RT\rPID|1\r");
        (format!("RRI^{event}^RRI_I12"), rest)
    };
    format!(
        "\u{b}MSH|^~\\&|PAEDPAS|R1L|WAYMARK|WM01|20260302||{kind}|9|T|2.5\rMSA|{code}|{id}\r{rest}\u{1c}\r"
    )
}

/// Serves connections for ever, message by message, by these moves; then accepts everything.
async fn receive(listener: TcpListener, moves: &[Move], seen: &Seen) {
    let mut moves = moves.iter().copied();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        while let Some(frame) = read_frame(&mut stream).await {
            seen.frames.lock().unwrap().push(frame.clone());
            let (text, close) = match moves.next().unwrap_or(Move::Say("AA", "")) {
                Move::Say(msa, rf1) => (answer(&frame, msa, rf1), false),
                Move::SayAndClose(msa) => (answer(&frame, msa, ""), true),
                Move::Close => break,
                Move::Wait => continue,
            };
            stream.write_all(text.as_bytes()).await.unwrap();
            if close {
                break;
            }
        }
    }
}

fn wire_id(nth: u8) -> WireId {
    WireId::of(DeliveryId::from_bytes([nth; 16]))
}

async fn send(adapter: &Hl7v2Adapter, endpoint: &Endpoint, kind: Kind, nth: u8) -> Outcome {
    send_again(adapter, endpoint, (kind, nth), false).await
}

/// Sends a message, of which an earlier attempt may have arrived.
async fn send_again(
    adapter: &Hl7v2Adapter,
    endpoint: &Endpoint,
    (kind, nth): (Kind, u8),
    may_have_arrived: bool,
) -> Outcome {
    let source = Source {
        wire_id: wire_id(nth),
        ..source(kind, Some(referral()))
    };
    let rendered = adapter.render(&source, endpoint).unwrap();
    let recipient: AgencyId = "R1L".parse().unwrap();
    let message = Outbound {
        delivery: DeliveryId::from_bytes([nth; 16]),
        wire_id: &source.wire_id,
        kind,
        recipient: &recipient,
        rendered: &rendered,
        endpoint,
        attempt: 1,
        may_have_arrived,
        traceparent: None,
    };
    let within = Duration::from_secs(20);
    adapter.deliver(&message, Deadline { within }).await
}

/// A receiver with these moves and an endpoint that reaches it.
async fn receiver(more: &str) -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = PLAIN.replace("port = 2575", &format!("port = {port}"));
    (
        listener,
        endpoint(&format!("{settings}\nack_timeout_ms = 500\n{more}")),
    )
}

/// The outcomes of messages sent one after the other.
async fn one_by_one(more: &str, moves: &[Move], kinds: &[Kind]) -> (Vec<Outcome>, Seen) {
    let adapter = Hl7v2Adapter::new(TlsProfiles::new(), Environment::Test, Arc::new(TestClock));
    with(adapter, more, moves, kinds).await
}

async fn with(
    adapter: Hl7v2Adapter,
    more: &str,
    moves: &[Move],
    kinds: &[Kind],
) -> (Vec<Outcome>, Seen) {
    let (listener, endpoint) = receiver(more).await;
    let seen = Seen::default();
    let talk = async {
        let mut outcomes = Vec::new();
        for (kind, nth) in kinds.iter().zip(1..) {
            outcomes.push(send(&adapter, &endpoint, *kind, nth).await);
        }
        outcomes
    };
    let outcomes = tokio::select! {
        outcomes = talk => outcomes,
        () = receive(listener, moves, &seen) => unreachable!("it serves for ever"),
    };
    (outcomes, seen)
}

fn words(outcomes: &[Outcome]) -> Vec<String> {
    let word = |outcome: &Outcome| match outcome.why() {
        Some(why) => format!("{} {}", outcome.word(), why.code),
        None => outcome.word().to_owned(),
    };
    outcomes.iter().map(word).collect()
}

#[tokio::test]
async fn one_connection_serves_many_messages() {
    let (outcomes, seen) = one_by_one("", &[], &[Kind::New; 5]).await;
    assert_eq!(words(&outcomes), ["delivered"; 5]);
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_for_each_message_where_the_endpoint_says_so_or_repeats_are_not_told() {
    for more in ["reuse_connection = false", "resend = \"never\""] {
        let (outcomes, seen) = one_by_one(more, &[], &[Kind::New; 3]).await;
        assert_eq!(words(&outcomes), ["delivered"; 3]);
        assert_eq!(seen.accepted.load(Ordering::SeqCst), 3, "{more}");
    }
}

#[tokio::test]
async fn a_receiver_that_closes_after_each_message_is_reached_anew_without_a_second_copy() {
    let close = Move::SayAndClose("AA");
    let (outcomes, seen) = one_by_one("", &[close; 4], &[Kind::New; 4]).await;
    assert_eq!(words(&outcomes), ["delivered"; 4]);
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 4);
    assert_eq!(seen.kinds().len(), 4, "each arrived once");
}

#[tokio::test]
async fn a_kept_connection_that_breaks_is_made_anew_once_and_a_new_one_that_breaks_is_unknown() {
    let moves = [Move::Say("AA", ""), Move::Close];
    let (outcomes, seen) = one_by_one("", &moves, &[Kind::New; 2]).await;
    assert_eq!(words(&outcomes), ["delivered"; 2]);
    let frames = seen.frames.lock().unwrap().clone();
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[1], frames[2], "the same bytes on the new connection");
    let (outcomes, _) = one_by_one("", &[Move::Close], &[Kind::New]).await;
    assert_eq!(words(&outcomes), ["unknown mllp.closed"]);
}

#[tokio::test]
async fn what_a_receiver_knows_of_the_same_attempt_is_no_collision() {
    let moves = [
        Move::Say("AA", ""),
        Move::Close,
        Move::Say("AE;ERR|||205|E\r", ""),
    ];
    let (outcomes, _) = one_by_one("", &moves, &[Kind::New; 2]).await;
    assert_eq!(words(&outcomes), ["delivered", "unknown mllp.ae.205"]);
}

#[tokio::test]
async fn a_connection_without_its_answer_is_not_used_again() {
    let moves = [Move::Say("AA", ""), Move::Wait];
    let (outcomes, seen) = one_by_one("", &moves, &[Kind::New; 3]).await;
    assert_eq!(
        words(&outcomes),
        ["delivered", "unknown mllp.no_ack", "delivered"]
    );
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn several_connections_serve_at_a_time_and_each_carries_one_message() {
    let (listener, endpoint) = receiver("").await;
    let adapter = Arc::new(Hl7v2Adapter::new(
        TlsProfiles::new(),
        Environment::Test,
        Arc::new(TestClock),
    ));
    let mut sending = JoinSet::new();
    for nth in 1..=3 {
        let (adapter, endpoint) = (Arc::clone(&adapter), endpoint.clone());
        sending.spawn(async move { send(&adapter, &endpoint, Kind::New, nth).await });
    }
    // All three are accepted before one of them is answered.
    let mut open = Vec::new();
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().await.unwrap();
        let frame = read_frame(&mut stream).await.unwrap();
        open.push((stream, frame));
    }
    for (stream, frame) in &mut open {
        let text = answer(frame, "AA", "");
        stream.write_all(text.as_bytes()).await.unwrap();
    }
    while let Some(outcome) = sending.join_next().await {
        assert_eq!(outcome.unwrap().word(), "delivered");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_by_the_round() {
    let (listener, endpoint) = receiver("").await;
    let adapter = Hl7v2Adapter::new(TlsProfiles::new(), Environment::Test, Arc::new(TestClock));
    assert_eq!(adapter.collect_every(&endpoint), Some(CONNECTION_IDLE_MAX));
    let seen = Seen::default();
    tokio::select! {
        outcome = send(&adapter, &endpoint, Kind::New, 1) => assert_eq!(outcome.word(), "delivered"),
        () = receive(listener, &[], &seen) => unreachable!("it serves for ever"),
    }
    assert!(!adapter.lines.is_empty());
    let within = Duration::from_secs(1);
    let intake = TestIntake::accepting();
    let collected = adapter.collect(&endpoint, &[], &*intake, Deadline { within });
    assert_eq!(collected.await, Collected::default());
    assert!(!adapter.lines.is_empty(), "it is not idle long enough");
    adapter
        .lines
        .close_idle(Instant::now() + CONNECTION_IDLE_MAX);
    assert!(adapter.lines.is_empty());
}

#[tokio::test]
async fn a_kept_connection_over_mutual_tls_serves_many_messages() {
    let trust = Pki::new();
    let mut profiles = TlsProfiles::new();
    profiles.insert("default".into(), trust.client(Some("urn:test:gateway")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = PLAIN
        .replace("port = 2575", &format!("port = {port}"))
        .replace("\"plain\"", "\"tls\"")
        .replace(
            "interface = \"127.0.0.1\"",
            "server_name = \"localhost\"\npeer_uri = \"urn:test:hospital\"",
        );
    let endpoint = endpoint(&settings);
    let adapter = Hl7v2Adapter::new(profiles, Environment::Test, Arc::new(TestClock));
    let acceptor = tokio_rustls::TlsAcceptor::from(trust.server(Some("urn:test:hospital")));
    let receiver = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        loop {
            let Some(frame) = read_frame(&mut stream).await else {
                std::future::pending::<()>().await;
                unreachable!()
            };
            let text = answer(&frame, "AA", "");
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
    };
    let talk = async {
        for nth in 1..=3 {
            let outcome = send(&adapter, &endpoint, Kind::New, nth).await;
            assert_eq!(outcome.word(), "delivered");
        }
    };
    // One accept alone: a second connection would never be answered.
    tokio::select! {
        () = talk => {}
        () = receiver => unreachable!("it serves for ever"),
    }
}

const ASK: &str = "ask_before_cancel = true";

async fn cancelled(moves: &[Move]) -> (String, Vec<String>) {
    let (outcomes, seen) = one_by_one(ASK, moves, &[Kind::Cancel]).await;
    (words(&outcomes).remove(0), seen.kinds())
}

#[tokio::test]
async fn a_cancel_goes_where_the_referral_is_pending_or_accepted() {
    for status in ["P", "A^Accepted^HL70283"] {
        let (outcome, kinds) = cancelled(&[Move::Say("AA", status)]).await;
        assert_eq!(outcome, "delivered", "{status}");
        assert_eq!(kinds, ["REF^I15", "REF^I14"]);
    }
}

#[tokio::test]
async fn a_cancel_is_refused_where_the_referral_is_neither_and_nothing_is_written() {
    for status in ["R", "E"] {
        let (outcome, kinds) = cancelled(&[Move::Say("AA", status)]).await;
        assert_eq!(outcome, "reject mllp.cancel_refused", "{status}");
        assert_eq!(kinds, ["REF^I15"]);
    }
}

#[tokio::test]
async fn no_answer_to_the_question_is_a_retry_and_never_a_blind_cancel() {
    for (step, expected) in [
        (Move::Wait, "retry mllp.ask_unanswered"),
        (Move::Close, "retry mllp.ask_unanswered"),
        (Move::Say("AA", ""), "retry mllp.ask_unanswered"),
        (Move::Say("CA", ""), "retry mllp.ask_unanswered"),
        (Move::Say("AE;ERR|||207|E\r", ""), "retry mllp.ae.207"),
        (Move::Say("AR", ""), "soft_reject mllp.ar"),
        (
            Move::Say("AE;ERR|||204|E\r", ""),
            "park mllp.ask.mllp.ae.204",
        ),
        (
            Move::Say("AR;ERR|||201|E\r", ""),
            "park mllp.ask.mllp.ar.201",
        ),
        (Move::Say("AA", "X"), "park mllp.ask"),
    ] {
        let (outcome, kinds) = cancelled(&[step]).await;
        assert_eq!(outcome, expected);
        assert_eq!(kinds, ["REF^I15"], "{expected}");
    }
}

#[tokio::test]
async fn a_receiver_that_closes_after_the_question_gets_its_cancel_on_a_new_connection() {
    // The answer to the question is an RRI, so it is given by hand and followed by a close.
    let (listener, endpoint) = receiver(ASK).await;
    let adapter = Hl7v2Adapter::new(TlsProfiles::new(), Environment::Test, Arc::new(TestClock));
    let receiver = async {
        for status in ["P", ""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let frame = read_frame(&mut stream).await.unwrap();
            let text = answer(&frame, "AA", status);
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    };
    let (outcome, ()) = tokio::join!(send(&adapter, &endpoint, Kind::Cancel, 1), receiver);
    assert_eq!(outcome.word(), "delivered");
}

#[tokio::test]
async fn a_cancel_that_may_have_arrived_goes_again_and_is_not_asked_about() {
    let (listener, endpoint) = receiver(ASK).await;
    let adapter = Hl7v2Adapter::new(TlsProfiles::new(), Environment::Test, Arc::new(TestClock));
    let seen = Seen::default();
    // It has cancelled, and would say that the referral has ended.
    let moves = [Move::Say("AE;ERR|||205|E\r", "")];
    let outcome = tokio::select! {
        outcome = send_again(&adapter, &endpoint, (Kind::Cancel, 1), true) => outcome,
        () = receive(listener, &moves, &seen) => unreachable!("it serves for ever"),
    };
    assert_eq!(words(&[outcome]), ["duplicate mllp.ae.205"]);
    assert_eq!(seen.kinds(), ["REF^I14"]);
}

#[tokio::test]
async fn a_question_that_is_put_again_is_another_question() {
    let moves = [
        Move::Say("AA", ""),
        Move::Close,
        Move::Say("AA", "P"),
        Move::Say("AA", ""),
    ];
    let (outcomes, seen) = one_by_one(ASK, &moves, &[Kind::New, Kind::Cancel]).await;
    assert_eq!(words(&outcomes), ["delivered"; 2]);
    assert_eq!(
        seen.kinds(),
        ["REF^I12", "REF^I15", "REF^I15", "REF^I14"],
        "the kept connection was closed"
    );
    let frames = seen.frames.lock().unwrap();
    let id = |nth: usize| frames[nth].split('|').nth(9).unwrap().to_owned();
    assert_ne!(id(1), id(2));
}

#[tokio::test]
async fn withdrawn_consent_and_new_referrals_are_not_asked_about() {
    for kind in [Kind::New, Kind::Amend, Kind::Withdraw] {
        let (outcomes, seen) = one_by_one(ASK, &[], &[kind]).await;
        assert_eq!(words(&outcomes), ["delivered"]);
        assert_eq!(seen.kinds().len(), 1);
    }
}

#[tokio::test]
async fn what_stood_against_a_cancel_is_kept_and_the_receivers_own_code_says_it_exactly() {
    let intake = TestIntake::accepting();
    let adapter = Hl7v2Adapter::new(TlsProfiles::new(), Environment::Test, Arc::new(TestClock));
    let adapter = adapter.with_intake(Arc::clone(&intake) as Arc<dyn Intake>);
    let (listener, mut endpoint) = receiver(ASK).await;
    let booked = waymark_core::directory::WireCode {
        code: "BK".to_owned(),
        system: "LOCAL".to_owned(),
        display: String::new(),
    };
    endpoint.codes.status.insert(LegState::Booked, booked);
    let seen = Seen::default();
    let moves = [Move::Say("AA", "BK^Booked^LOCAL")];
    let outcome = tokio::select! {
        outcome = send(&adapter, &endpoint, Kind::Cancel, 1) => outcome,
        () = receive(listener, &moves, &seen) => unreachable!("it serves for ever"),
    };
    assert_eq!(words(&[outcome]), ["reject mllp.cancel_refused"]);
    let taken = intake.taken.lock().unwrap();
    let InboundBody::Status(status) = &taken[0].body else {
        panic!("not a status")
    };
    assert_eq!(status.state, LegState::Booked);
    assert_eq!(taken[0].claimed_sender, None);
}

#[tokio::test]
async fn the_question_names_the_referral_and_repeats_neither_reason_nor_notes() {
    let (_, seen) = one_by_one(ASK, &[Move::Say("AA", "P")], &[Kind::Cancel]).await;
    let frames = seen.frames.lock().unwrap();
    let (question, cancel) = (&frames[0], &frames[1]);
    assert!(question.contains("|REF^I15^REF_I12|WQ0011"), "{question}");
    assert!(!question.contains("\rNTE"), "{question}");
    let id = question.split('|').nth(9).unwrap();
    assert!(id.len() <= WireId::LENGTH_MAX);
    let rf1 = |text: &str| {
        text.split('\r')
            .find(|s| s.starts_with("RF1"))
            .unwrap()
            .to_owned()
    };
    assert_eq!(rf1(question), rf1(cancel));
}
