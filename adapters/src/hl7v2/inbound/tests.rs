//! The listener on real sockets.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use waymark_core::delivery::Evidence;
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::port::IntakeError;

use super::*;
use crate::hl7v2::testing::{Pki, StuckIntake, TestClock, TestIntake, read_frame};

const REFERRAL: &str = include_str!("../fixtures/ref-i12-v25.hl7");
const ANSWER: &str = include_str!("../fixtures/rri-i12-v25.hl7");

/// A referral in original mode, on the wire.
pub(super) fn referral() -> String {
    wire(REFERRAL).replace("|||AL|AL|GBR", "|||||GBR")
}

pub(super) fn wire(text: &str) -> String {
    text.replace('\n', "\r")
}

fn framed(message: &str) -> String {
    format!("\u{b}{message}\u{1c}\r")
}

pub(super) fn options() -> ListenerOptions {
    let assumptions = Assumptions::of("unsorted".parse().unwrap());
    ListenerOptions::new("school", Environment::Live, assumptions)
}

/// Runs a listener for as long as the talk takes, then shuts it down and waits for its end.
pub(super) async fn with_listener<T, F: Future<Output = T>>(
    options: ListenerOptions,
    intake: Arc<dyn Intake>,
    talk: impl FnOnce(SocketAddr) -> F,
) -> T {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = MllpListener::bind(any, options, intake, Arc::new(TestClock))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let talk = async {
        let said = talk(address).await;
        shutdown.cancel();
        said
    };
    let (said, ()) = tokio::join!(talk, listener.run(shutdown.clone()));
    said
}

/// Sends these bytes and reads so many frames, then the rest until the listener closes or is silent.
pub(super) async fn say(address: SocketAddr, bytes: &[u8], answers: usize) -> Vec<String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut frames = Vec::new();
    for _ in 0..answers {
        frames.extend(read_frame(&mut stream).await);
    }
    frames
}

pub(super) async fn answer_to(message: &str, intake: Arc<dyn Intake>) -> String {
    let talk = |address| async move { say(address, framed(message).as_bytes(), 1).await };
    with_listener(options(), intake, talk).await.remove(0)
}

#[tokio::test]
async fn referral_is_taken_and_then_acknowledged() {
    let intake = TestIntake::accepting();
    let answer = answer_to(&referral(), intake.clone()).await;
    assert!(answer.contains("\rMSA|AA|SM0000000001\r"), "{answer}");
    assert!(
        answer.starts_with("MSH|^~\\&|WAYMARK|WM01|SCHOOLMIS|EE123456|"),
        "{answer}"
    );
    assert!(answer.contains("|ACK^I12^ACK|"));
    let taken = intake.taken.lock().unwrap();
    assert_eq!(taken[0].channel, Channel::Peer("mllp:school".to_owned()));
    assert_eq!(
        taken[0].claimed_sender.as_deref(),
        Some("SCHOOLMIS|EE123456")
    );
    assert_eq!(
        taken[0].message_key,
        "SCHOOLMIS|EE123456|REF^I12|SM0000000001"
    );
    assert_eq!(taken[0].environment, Some(Environment::Live));
    assert_eq!(taken[0].original.expose(), referral().as_bytes());
    assert!(matches!(&taken[0].body, InboundBody::Submit(_)));
}

#[tokio::test]
async fn enhanced_mode_gets_commit_and_application_acknowledgement() {
    let message = wire(REFERRAL);
    let talk = |address| async move { say(address, framed(&message).as_bytes(), 2).await };
    let answers = with_listener(options(), TestIntake::accepting(), talk).await;
    assert!(
        answers[0].contains("\rMSA|CA|SM0000000001\r"),
        "{answers:?}"
    );
    assert!(
        answers[1].contains("\rMSA|AA|SM0000000001\r"),
        "{answers:?}"
    );
    let id = |answer: &str| answer.split('|').nth(9).unwrap().to_owned();
    assert_ne!(id(&answers[0]), id(&answers[1]));
    assert!(id(&answers[0]).len() <= 20);
}

#[tokio::test]
async fn status_is_taken_from_an_answer() {
    let intake = TestIntake::accepting();
    let answer = answer_to(&wire(ANSWER), intake.clone()).await;
    assert!(answer.contains("\rMSA|AA|88124\r"), "{answer}");
    assert!(matches!(
        &intake.taken.lock().unwrap()[0].body,
        InboundBody::Status(_)
    ));
}

#[tokio::test]
async fn several_frames_junk_and_split_writes_are_all_served_in_order() {
    let second = referral().replace("SM0000000001", "SM0000000002");
    let bytes = format!("noise{}\r\n{}", framed(&referral()), framed(&second));
    let talk = |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for piece in bytes.as_bytes().chunks(7) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        [
            read_frame(&mut stream).await.unwrap(),
            read_frame(&mut stream).await.unwrap(),
        ]
    };
    let answers = with_listener(options(), TestIntake::accepting(), talk).await;
    assert!(answers[0].contains("|SM0000000001\r"));
    assert!(answers[1].contains("|SM0000000002\r"));
}

#[tokio::test]
async fn refusals_name_segment_field_and_code_and_never_reach_the_intake() {
    for (from, to, msa, error) in [
        ("SM-2026-0007^SCHOOLMIS", "", "AE", "RF1^1^6|101^"),
        ("|P|2.5|", "|T|2.5|", "AR", "MSH^1^11|202^"),
        ("|P|2.5|", "||2.5|", "AR", "MSH^1^11|202^"),
        ("REF^I12^REF_I12", "ADT^A01", "AR", "MSH^1^9|200^"),
        ("REF^I12^REF_I12", "REF^I16", "AR", "MSH^1^9|201^"),
        ("REF^I12^REF_I12", "SIU^S17", "AR", "MSH^1^9|201^"),
        (
            "PID|1||9434765919",
            "PID|1||9434765918",
            "AE",
            "PID^1^3|102^",
        ),
        ("NTE|1|L|first", "NTE|1|L|fi\u{1}rst", "AR", "NTE^1^3|102^"),
    ] {
        let intake = TestIntake::accepting();
        assert!(referral().contains(from), "{from}");
        let answer = answer_to(&referral().replacen(from, to, 1), intake.clone()).await;
        assert!(
            answer.contains(&format!("\rMSA|{msa}|SM0000000001\r")),
            "{to}: {answer}"
        );
        assert!(
            answer.contains(&format!("\rERR||{error}")),
            "{to}: {answer}"
        );
        assert_eq!(intake.count(), 0);
    }
}

#[tokio::test]
async fn intake_refusals_become_codes_of_table_0357() {
    for (kind, reason, msa, error) in [
        (
            ErrorKind::Conflict,
            "REFERENCE_IN_USE",
            "AE",
            "RF1^1^6|205^",
        ),
        (
            ErrorKind::Conflict,
            "MESSAGE_KEY_REUSED",
            "AE",
            "MSH^1^10|205^",
        ),
        (ErrorKind::Denied, "SENDER_MISMATCH", "AR", "MSH^1^3|103^"),
        (ErrorKind::Unavailable, "BUSY", "AE", "|207^"),
    ] {
        let error_of = IntakeError {
            kind,
            violations: Vec::new(),
            reason,
        };
        let answer = answer_to(&referral(), TestIntake::refusing(error_of)).await;
        assert!(
            answer.contains(&format!("\rMSA|{msa}|SM0000000001\r")),
            "{kind:?}: {answer}"
        );
        assert!(
            answer.contains(&format!("\rERR||{error}")),
            "{kind:?}: {answer}"
        );
    }
    let violations = vec![Violation::new("child.date_of_birth", "is in the future")];
    let error = IntakeError {
        kind: ErrorKind::Invalid,
        violations,
        reason: "INVALID",
    };
    let old = referral().replace("|P|2.5|", "|P|2.4|");
    let answer = answer_to(&old, TestIntake::refusing(error)).await;
    assert!(answer.contains("\rERR|PID^1^7^102&"), "{answer}");
}

#[tokio::test]
async fn intake_that_is_stuck_is_answered_with_send_it_again() {
    let options = ListenerOptions {
        intake_timeout: Duration::from_millis(50),
        ..options()
    };
    let talk = |address| async move { say(address, framed(&referral()).as_bytes(), 1).await };
    let answers = with_listener(options, Arc::new(StuckIntake), talk).await;
    assert!(answers[0].contains("\rMSA|AE|"), "{answers:?}");
    assert!(answers[0].contains("|207^"), "{answers:?}");
}

/// Says these bytes and waits for the listener to close.
async fn closed_after(options: ListenerOptions, bytes: Vec<u8>) -> Vec<u8> {
    let talk = |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The listener may close before it has read everything.
        drop(stream.write_all(&bytes).await);
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said).await);
        said
    };
    with_listener(options, TestIntake::accepting(), talk).await
}

#[tokio::test]
async fn what_cannot_be_answered_closes_the_connection() {
    let small = ListenerOptions {
        message_bytes_max: 100,
        ..options()
    };
    assert!(
        closed_after(small, framed(&referral()).into_bytes())
            .await
            .is_empty()
    );
    assert!(
        closed_after(options(), framed("no header").into_bytes())
            .await
            .is_empty()
    );
    let anonymous = framed(&referral().replace("SM0000000001", ""));
    assert!(
        closed_after(options(), anonymous.into_bytes())
            .await
            .is_empty()
    );
    let junk = vec![b'x'; crate::hl7v2::mllp::JUNK_BYTES_MAX + 1];
    assert!(closed_after(options(), junk).await.is_empty());
}

#[tokio::test]
async fn frame_that_never_ends_and_idle_connection_are_closed() {
    let frame_timeout = Duration::from_millis(50);
    let slow = ListenerOptions {
        frame_timeout,
        ..options()
    };
    assert!(
        closed_after(slow.clone(), b"\x0bMSH".to_vec())
            .await
            .is_empty()
    );
    let idle = ListenerOptions {
        idle_timeout: Duration::from_millis(100),
        ..slow
    };
    assert!(closed_after(idle, Vec::new()).await.is_empty());
}

#[tokio::test]
async fn acknowledgements_are_not_acknowledged() {
    let ack = framed("MSH|^~\\&|A|B|C|D|2026||ACK^I12^ACK|9|P|2.5\rMSA|CA|X\r");
    let bytes = ack + &framed(&referral());
    let talk = |address| async move { say(address, bytes.as_bytes(), 1).await };
    let answers = with_listener(options(), TestIntake::accepting(), talk).await;
    assert!(
        answers[0].contains("|SM0000000001\r"),
        "the first answer is of the second message"
    );
}

/// What the intake is given of a late acknowledgement, and what its sender hears before the answer to its next message.
async fn late(header: &str, msa: &str, intake: Arc<TestIntake>) -> (Vec<InboundBody>, String) {
    let ack = framed(&format!(
        "MSH|^~\\&|PAEDPAS|R1L|C|D|2026||ACK^I12^ACK|9|P|2.5{header}\rMSA|{msa}\r"
    ));
    let next = ack
        .replace("ACK^I12^ACK|9", "QRY^Q01|10")
        .replace("|AL", "");
    let bytes = ack + &next;
    let talk = |address| async move { say(address, bytes.as_bytes(), 1).await.remove(0) };
    let first = with_listener(options(), intake.clone(), talk).await;
    let mut taken = intake.taken.lock().unwrap();
    (taken.drain(..).map(|it| it.body).collect(), first)
}

#[tokio::test]
async fn a_late_acknowledgement_is_handed_over_and_committed_where_it_asks() {
    let (taken, first) = late("", "AA|WM1", TestIntake::accepting()).await;
    let [InboundBody::Status(status)] = &taken[..] else {
        panic!("{taken:?}");
    };
    assert_eq!(status.answers.as_deref(), Some("WM1"));
    assert_eq!(status.grade, Evidence::ApplicationAck);
    assert!(first.contains("\rMSA|AR|10\r"), "not answered: {first}");
    let (taken, first) = late("|||AL|AL", "AR|WM1", TestIntake::accepting()).await;
    let [InboundBody::Undelivered(undelivered)] = &taken[..] else {
        panic!("{taken:?}");
    };
    assert_eq!(undelivered.answers, "WM1");
    assert!(first.contains("\rMSA|CA|9\r"), "{first}");
    let unknown = IntakeError {
        kind: ErrorKind::NotFound,
        violations: Vec::new(),
        reason: "NO_SUCH_DELIVERY",
    };
    let (_, first) = late("|||AL|AL", "AR|WM1", TestIntake::refusing(unknown)).await;
    assert!(first.contains("\rMSA|CE|9\r"), "{first}");
    assert!(first.contains("ERR||MSA^1^2|204^"), "{first}");
    // The attempt that it answers may be under way.
    let (taken, _) = late("", "AR|WM1", TestIntake::busy(1)).await;
    assert_eq!(taken.len(), 2, "nobody sends it again");
    let (taken, first) = late("|||AL", "ZZ|WM1", TestIntake::accepting()).await;
    assert_eq!(taken.len(), 0);
    assert!(first.contains("ERR||MSA^1^1|103^"), "{first}");
}

#[tokio::test]
async fn a_late_refusal_is_taken_from_an_rri_that_is_nothing_else() {
    let rri = "MSH|^~\\&|PAEDPAS|R1L|C|D|2026||RRI^I12^RRI_I12|9|P|2.5\rMSA|AR|WM1\r";
    let intake = TestIntake::accepting();
    let answer = answer_to(rri, intake.clone()).await;
    assert!(answer.contains("\rMSA|AA|9\r"), "{answer}");
    let taken = intake.taken.lock().unwrap();
    let InboundBody::Undelivered(undelivered) = &taken[0].body else {
        panic!("{taken:?}");
    };
    assert_eq!(undelivered.answers, "WM1");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_free_one() {
    let options = ListenerOptions {
        connections_max: 1,
        ..options()
    };
    let talk = |address| async move {
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second
            .write_all(framed(&referral()).as_bytes())
            .await
            .unwrap();
        let early = timeout(Duration::from_millis(100), read_frame(&mut second)).await;
        assert!(early.is_err(), "the second waits while the first is open");
        drop(first);
        read_frame(&mut second).await
    };
    let answer = with_listener(options, TestIntake::accepting(), talk).await;
    assert!(answer.unwrap().contains("\rMSA|AA|"));
}

async fn over_tls(
    client_uri: Option<&str>,
    client: &Pki,
    server: &Pki,
) -> (Option<String>, String) {
    let config = server.server(Some("urn:test:gateway"));
    let tls: ServerTlsSource = Arc::new(move || Arc::clone(&config));
    let options = ListenerOptions {
        tls: Some(tls),
        ..options()
    };
    let intake = TestIntake::accepting();
    let connector = TlsConnector::from(client.client(client_uri));
    let talk = |address| async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut stream = connector.connect(name, stream).await.ok()?;
        stream
            .write_all(framed(&referral()).as_bytes())
            .await
            .ok()?;
        read_frame(&mut stream).await
    };
    let answer = with_listener(options, intake.clone(), talk).await;
    let taken = intake.taken.lock().unwrap();
    (
        answer,
        taken
            .first()
            .map(|it| match &it.channel {
                Channel::Peer(name) => name.clone(),
                Channel::Endpoint(id) => id.to_string(),
            })
            .unwrap_or_default(),
    )
}

#[tokio::test]
async fn client_certificate_says_who_speaks() {
    let (trust, rogue) = (Pki::new(), Pki::new());
    let uri = "urn:test:agency:EE123456";
    let (answer, identity) = over_tls(Some(uri), &trust, &trust).await;
    assert!(answer.unwrap().contains("\rMSA|AA|"));
    assert_eq!(identity, uri);
    let (answer, identity) = over_tls(None, &trust, &trust).await;
    assert_eq!(
        (answer, identity.as_str()),
        (None, ""),
        "a certificate without a URI names nobody"
    );
    let (answer, identity) = over_tls(Some(uri), &rogue, &trust).await;
    assert_eq!(
        (answer, identity.as_str()),
        (None, ""),
        "an unknown authority proves nothing"
    );
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_ends_the_listener() {
    let talk = |address| async move { TcpStream::connect(address).await.unwrap() };
    let mut stream = with_listener(options(), TestIntake::accepting(), talk).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}
