//! The outbound side against receivers on real sockets, each with a quirk that was seen.

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use waymark_core::delivery::{Evidence, Kind};
use waymark_core::id::{AgencyId, DeliveryId, WireId};

use super::*;
use crate::hl7v2::config::tests::{PLAIN, endpoint};
use crate::hl7v2::map::tests::{referral, source};
use crate::hl7v2::testing::{Pki, TestClock, read_frame};

/// What a receiver does after its answers.
#[derive(Clone, Copy)]
pub(super) enum Then {
    Close,
    Wait,
}

pub(super) fn wire_id() -> WireId {
    WireId::of(DeliveryId::from_bytes([7; 16]))
}

pub(super) fn framed(message: &str) -> String {
    format!("\u{b}{message}\u{1c}\r")
}

/// An acknowledgement by the bound endpoint, of a message with this id.
fn ack(id: &str, msa: &str) -> String {
    let (code, rest) = msa.split_once(';').unwrap_or((msa, ""));
    framed(&format!(
        "MSH|^~\\&|PAEDPAS|R1L|WAYMARK|WM01|20260302||ACK^I12^ACK|9|T|2.5\rMSA|{code}|{id}\r{rest}"
    ))
}

pub(super) fn own(msa: &str) -> String {
    ack(wire_id().as_str(), msa)
}

pub(super) fn adapter() -> Hl7v2Adapter {
    Hl7v2Adapter::new(TlsProfiles::new(), Environment::Test, Arc::new(TestClock))
}

pub(super) fn at_port(port: u16, more: &str) -> Endpoint {
    endpoint(&format!(
        "{}\nreuse_connection = false\n{more}",
        PLAIN.replace("port = 2575", &format!("port = {port}"))
    ))
}

async fn deliver(adapter: &Hl7v2Adapter, endpoint: &Endpoint) -> Outcome {
    deliver_as(adapter, endpoint, Kind::New).await
}

pub(super) async fn deliver_as(adapter: &Hl7v2Adapter, endpoint: &Endpoint, kind: Kind) -> Outcome {
    deliver_within(adapter, endpoint, kind, Duration::from_secs(20)).await
}

pub(super) async fn deliver_within(
    adapter: &Hl7v2Adapter,
    endpoint: &Endpoint,
    kind: Kind,
    within: Duration,
) -> Outcome {
    let rendered = adapter
        .render(&source(kind, Some(referral())), endpoint)
        .unwrap();
    let recipient: AgencyId = "R1L".parse().unwrap();
    let id = wire_id();
    let message = Outbound {
        delivery: DeliveryId::from_bytes([7; 16]),
        wire_id: &id,
        kind,
        recipient: &recipient,
        rendered: &rendered,
        endpoint,
        attempt: 1,
        may_have_arrived: false,
        traceparent: None,
    };
    adapter.deliver(&message, Deadline { within }).await
}

async fn play(mut stream: impl Stream, answers: &str, then: Then) -> (Option<String>, Vec<u8>) {
    let Some(frame) = read_frame(&mut stream).await else {
        return (None, Vec::new());
    };
    // The sender may close before it has read answers that it does not want.
    drop(stream.write_all(answers.as_bytes()).await);
    drop(stream.flush().await);
    let mut rest = Vec::new();
    if matches!(then, Then::Wait) {
        // The sender closes when it has what it waits for; TLS may end without a farewell.
        drop(stream.read_to_end(&mut rest).await);
    }
    (Some(frame), rest)
}

/// Runs one delivery against a receiver that says this.
async fn against(adapter: &Hl7v2Adapter, more: &str, answers: &str, then: Then) -> Seen {
    against_as(adapter, (more, Kind::New), answers, then).await
}

pub(super) async fn against_as(
    adapter: &Hl7v2Adapter,
    (more, kind): (&str, Kind),
    answers: &str,
    then: Then,
) -> Seen {
    let within = Duration::from_secs(20);
    against_within(adapter, (more, kind), answers, then, within).await
}

pub(super) async fn against_within(
    adapter: &Hl7v2Adapter,
    (more, kind): (&str, Kind),
    answers: &str,
    then: Then,
    within: Duration,
) -> Seen {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = at_port(listener.local_addr().unwrap().port(), more);
    let receiver = async {
        let (stream, _) = listener.accept().await.unwrap();
        play(stream, answers, then).await
    };
    let delivered = deliver_within(adapter, &endpoint, kind, within);
    let (outcome, (frame, rest)) = tokio::join!(delivered, receiver);
    Seen {
        outcome,
        frame: frame.unwrap(),
        rest,
    }
}

pub(super) struct Seen {
    pub(super) outcome: Outcome,
    pub(super) frame: String,
    pub(super) rest: Vec<u8>,
}

async fn answered(answers: &str) -> Outcome {
    against(&adapter(), "", answers, Then::Wait).await.outcome
}

pub(super) fn summary(outcome: &Outcome) -> (&'static str, String) {
    (
        outcome.word(),
        outcome
            .why()
            .map(|why| why.code.clone())
            .unwrap_or_default(),
    )
}

#[tokio::test]
async fn each_acknowledgement_ends_the_attempt_as_ruled() {
    for (msa, word, why) in [
        ("AA", "delivered", ""),
        ("AE;ERR||PID^1^3|205|E\r", "duplicate", "mllp.ae.205"),
        (
            "AR;ERR|RF1^1^6^205&Dup&HL70357\r",
            "duplicate",
            "mllp.ar.205",
        ),
        ("AE;ERR|||206|E\r", "retry", "mllp.ae.206"),
        ("CE;ERR|||207|E\r", "retry", "mllp.ce.207"),
        ("AR;ERR|||207|E\r", "retry", "mllp.ar.207"),
        ("AR;ERR||PID^1^7|101|E\r", "reject", "mllp.ar.101"),
        ("CR;ERR|||200|E\r", "reject", "mllp.cr.200"),
        ("AR;ERR|||204|E\r", "reject", "mllp.ar.204"),
        ("AE;ERR||PID^1^7|101|E\r", "park", "mllp.ae.101"),
        ("AE", "park", "mllp.ae"),
        ("CE", "park", "mllp.ce"),
        ("AR", "soft_reject", "mllp.ar"),
        ("CR", "soft_reject", "mllp.cr"),
        ("AR;ERR|||999|E\r", "soft_reject", "mllp.ar.999"),
    ] {
        let outcome = answered(&own(msa)).await;
        assert_eq!(summary(&outcome), (word, why.to_owned()), "{msa}");
        if let Outcome::Park { reason, .. } = outcome {
            assert_eq!(reason, ParkReason::Refused, "{msa}");
        }
    }
}

#[tokio::test]
async fn accepted_message_has_the_grade_and_the_receipt_as_it_came() {
    let seen = against(&adapter(), "", &own("AA"), Then::Wait).await;
    let Outcome::Delivered {
        grade,
        awaiting,
        receipt,
        ..
    } = seen.outcome
    else {
        panic!()
    };
    assert_eq!((grade, awaiting), (Evidence::ApplicationAck, None));
    assert_eq!(
        framed(std::str::from_utf8(receipt.unwrap().expose()).unwrap()),
        own("AA")
    );
    assert!(
        seen.frame
            .contains(&format!("|REF^I12^REF_I12|{}|T|2.5|", wire_id()))
    );
}

#[tokio::test]
async fn every_attempt_sends_the_same_bytes() {
    let first = against(&adapter(), "", &own("AE;ERR|||206|E\r"), Then::Wait).await;
    let second = against(&adapter(), "", &own("AA"), Then::Wait).await;
    assert_eq!(first.frame, second.frame);
}

#[tokio::test]
async fn acknowledgements_of_other_messages_are_passed_over() {
    let answers = ack("WMEARLIER", "AA") + &ack("WMEARLIER2", "AE") + &own("AA");
    assert_eq!(answered(&answers).await.word(), "delivered");
    let none_of_ours = ack("WMEARLIER", "AA");
    let seen = against(&adapter(), "", &none_of_ours, Then::Close).await;
    assert_eq!(summary(&seen.outcome), ("unknown", "mllp.closed".into()));
}

#[tokio::test]
async fn frames_passed_over_are_bounded_at_their_edge() {
    let others = |n| ack("WMEARLIER", "AA").repeat(n);
    let within = others(FRAMES_PASSED_OVER_MAX - 1) + &own("AA");
    assert_eq!(answered(&within).await.word(), "delivered");
    let beyond = others(FRAMES_PASSED_OVER_MAX) + &own("AA");
    assert_eq!(
        summary(&answered(&beyond).await),
        ("unknown", "mllp.no_ack".into())
    );
}

#[tokio::test]
async fn junk_and_unreadable_frames_before_the_acknowledgement_are_skipped() {
    let answers = format!(
        "hello\r\n{}{}??{}",
        framed("no message"),
        framed(""),
        own("AA")
    );
    assert_eq!(answered(&answers).await.word(), "delivered");
}

#[tokio::test]
async fn answer_that_is_too_large_leaves_the_end_unknown() {
    let huge = framed(&"x".repeat(crate::hl7v2::message::MESSAGE_BYTES_MAX + 2));
    let seen = against(&adapter(), "", &huge, Then::Close).await;
    assert_eq!(summary(&seen.outcome), ("unknown", "mllp.frame".into()));
}

#[tokio::test]
async fn enhanced_mode_waits_for_the_application_after_the_commit() {
    let enhanced = |answers: &str, then| {
        let answers = answers.to_owned();
        async move {
            let more = "application_ack_timeout_ms = 300";
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut endpoint = at_port(listener.local_addr().unwrap().port(), more);
            endpoint
                .settings
                .insert("ack_mode".into(), "enhanced".into());
            let receiver = async {
                let (stream, _) = listener.accept().await.unwrap();
                play(stream, &answers, then).await
            };
            let adapter = adapter();
            let (outcome, (frame, _)) = tokio::join!(deliver(&adapter, &endpoint), receiver);
            assert!(frame.unwrap().contains("|T|2.5|||AL|AL|"));
            outcome
        }
    };
    let both = enhanced(&(own("CA") + &own("AA")), Then::Wait).await;
    assert!(matches!(
        both,
        Outcome::Delivered {
            grade: Evidence::ApplicationAck,
            ..
        }
    ));
    for then in [Then::Wait, Then::Close] {
        let commit_alone = enhanced(&own("CA"), then).await;
        let Outcome::Delivered {
            grade, awaiting, ..
        } = commit_alone
        else {
            panic!()
        };
        assert_eq!(
            (grade, awaiting),
            (Evidence::TransportAck, Some(Evidence::ApplicationAck))
        );
    }
    let refused = enhanced(&(own("CA") + &own("AE;ERR|||101|E\r")), Then::Wait).await;
    assert_eq!(summary(&refused), ("park", "mllp.ae.101".into()));
}

#[tokio::test]
async fn lost_acknowledgement_is_unknown_and_never_simply_failed() {
    let closed = against(&adapter(), "", "", Then::Close).await;
    assert_eq!(summary(&closed.outcome), ("unknown", "mllp.closed".into()));
    let silent = against(&adapter(), "ack_timeout_ms = 200", "", Then::Wait).await;
    assert_eq!(summary(&silent.outcome), ("unknown", "mllp.no_ack".into()));
    let half = own("AA").replace('\u{1c}', "");
    let cut = against(&adapter(), "", &half, Then::Close).await;
    assert_eq!(summary(&cut.outcome), ("unknown", "mllp.frame".into()));
}

#[tokio::test]
async fn receiver_that_does_not_tell_repeats_is_not_sent_to_again() {
    let never = "resend = \"never\"";
    let closed = against(&adapter(), never, "", Then::Close).await;
    assert_eq!(summary(&closed.outcome), ("park", "mllp.closed".into()));
    // Nor after an attempt whose end this process never saw.
    let (adapter, endpoint) = (adapter(), at_port(2575, never));
    assert_eq!(adapter.repeat(&at_port(2575, "")), Repeat::DedupesById);
    assert_eq!(adapter.repeat(&endpoint), Repeat::MustReconcile);
    let source = source(Kind::New, Some(referral()));
    let rendered = adapter.render(&source, &endpoint).unwrap();
    let message = crate::contract::sample::outbound(&source, &rendered, &endpoint, 2);
    let within = Duration::from_secs(1);
    let settled = adapter.reconcile(&message, Deadline { within }).await;
    let Reconciliation::Settled(outcome @ Outcome::ParkWritten { .. }) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!(summary(&outcome), ("park", "mllp.no_repeat".into()));
}

#[tokio::test]
async fn refused_connection_is_retried_since_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = at_port(listener.local_addr().unwrap().port(), "");
    drop(listener);
    assert_eq!(
        summary(&deliver(&adapter(), &endpoint).await),
        ("retry", "mllp.tcp".into())
    );
}

#[tokio::test]
async fn endpoint_of_another_agency_is_never_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = at_port(listener.local_addr().unwrap().port(), "");
    endpoint.agency = "RZZ".parse().unwrap();
    let outcome = deliver(&adapter(), &endpoint).await;
    assert!(matches!(
        outcome,
        Outcome::Park {
            reason: ParkReason::WrongRecipient,
            ..
        }
    ));
    let caller = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(caller.is_err(), "no connection was made");
}

#[tokio::test]
async fn acknowledgement_of_somebody_else_raises_wrong_recipient() {
    for (from, to, word) in [
        ("|PAEDPAS|R1L|", "|OTHERPAS|R1L|", "park"),
        ("|PAEDPAS|R1L|", "|PAEDPAS|RZZ|", "park"),
        ("|PAEDPAS|R1L|", "|PAEDPAS^1.2.3^ISO|R1L|", "delivered"),
        ("|PAEDPAS|R1L|", "|||", "delivered"),
    ] {
        let outcome = answered(&own("AA").replace(from, to)).await;
        assert_eq!(outcome.word(), word, "{to}");
        // Whoever answered has the message.
        if word == "park" {
            assert!(matches!(
                outcome,
                Outcome::ParkWritten {
                    reason: ParkReason::WrongRecipient,
                    ..
                }
            ));
        }
    }
}

const TLS: &str = "tls_profile = \"trust\"\nserver_name = \"localhost\"";
const URI: &str = "urn:test:agency:R1L";

fn tls_endpoint(port: u16, more: &str) -> Endpoint {
    let settings = PLAIN
        .replace("port = 2575", &format!("port = {port}"))
        .replace("\"plain\"", "\"tls\"")
        .replace("version =", "reuse_connection = false\nversion =")
        .replace("interface = \"127.0.0.1\"", TLS);
    endpoint(&format!("{settings}\n{more}"))
}

async fn against_tls(client: &Pki, server: &Pki, more: &str) -> (Outcome, Option<String>) {
    let mut profiles = TlsProfiles::new();
    profiles.insert("trust".into(), client.client(Some("urn:test:gateway")));
    let adapter = Hl7v2Adapter::new(profiles, Environment::Test, Arc::new(TestClock));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = tls_endpoint(listener.local_addr().unwrap().port(), more);
    assert_eq!(adapter.validate(&endpoint), Vec::new());
    assert_eq!(
        adapter.identification(&endpoint),
        Identification::Certificate
    );
    let acceptor = TlsAcceptor::from(server.server(Some(URI)));
    let receiver = async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.ok()?;
        play(stream, &own("AA"), Then::Wait).await.0
    };
    tokio::join!(deliver(&adapter, &endpoint), receiver)
}

#[tokio::test]
async fn tls_delivers_to_the_named_peer_and_to_nobody_else() {
    let (trust, rogue) = (Pki::new(), Pki::new());
    let (outcome, frame) = against_tls(&trust, &trust, &format!("peer_uri = \"{URI}\"")).await;
    assert_eq!(outcome.word(), "delivered");
    assert!(frame.is_some());

    let (outcome, frame) = against_tls(&trust, &trust, "peer_uri = \"urn:test:agency:RZZ\"").await;
    assert_eq!(summary(&outcome), ("park", "mllp.identity".into()));
    assert!(matches!(
        outcome,
        Outcome::Park {
            reason: ParkReason::WrongRecipient,
            ..
        }
    ));
    assert_eq!(frame, None, "nothing was written to the wrong peer");

    let (outcome, frame) = against_tls(&trust, &rogue, "").await;
    assert_eq!(summary(&outcome), ("retry", "mllp.tls".into()));
    assert_eq!(
        frame, None,
        "nothing was written to an unknown authority's peer"
    );
}

#[tokio::test]
async fn validation_names_what_is_missing() {
    let endpoint = tls_endpoint(2575, "");
    assert_eq!(
        adapter().validate(&endpoint)[0].field,
        "settings.tls_profile"
    );
    assert_eq!(
        adapter().validate(&at_port(0, ""))[0].field,
        "settings.port"
    );
    assert_eq!(
        adapter().identification(&at_port(2575, "")),
        Identification::Network
    );
}

fn passed(probe: &Probe) -> Vec<(&str, Option<bool>)> {
    probe
        .stages
        .iter()
        .map(|stage| (stage.stage, stage.passed))
        .collect()
}

#[tokio::test]
async fn an_address_that_no_hospital_has_is_never_connected_to() {
    let deadline = Deadline {
        within: Duration::from_secs(5),
    };
    // Link-local: where clouds keep credentials.
    let mut endpoint = at_port(2575, "");
    endpoint
        .settings
        .insert("host".to_owned(), "169.254.169.254".into());
    let probe = adapter().probe(&endpoint, deadline).await;
    assert_eq!(passed(&probe)[..2], [("name", Some(false)), ("tcp", None)]);
}

#[tokio::test]
async fn probe_says_how_far_it_came_and_sends_nothing() {
    let deadline = Deadline {
        within: Duration::from_secs(5),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = at_port(listener.local_addr().unwrap().port(), "");
    let receiver = async {
        let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    };
    let adapter = adapter();
    let (probe, rest) = tokio::join!(adapter.probe(&endpoint, deadline), receiver);
    assert!(rest.is_empty());
    let plain = [
        ("name", Some(true)),
        ("tcp", Some(true)),
        ("tls", None),
        ("identity", None),
    ];
    assert_eq!(passed(&probe)[..4], plain);
    drop(listener);
    let probe = adapter.probe(&endpoint, deadline).await;
    assert_eq!(
        passed(&probe)[..3],
        [("name", Some(true)), ("tcp", Some(false)), ("tls", None)]
    );
}
