//! HL7 v2 over MLLP: one message at a time, its acknowledgement read before the next goes.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use futures::{SinkExt as _, StreamExt as _};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::codec::Framed;
use waymark_adapters::grpc::convert::sender_reference_to_proto;
use waymark_adapters::hl7v2::ack::{AckCode, AckReading};
use waymark_adapters::hl7v2::content::{AckCondition, Envelope, Rf1};
use waymark_adapters::hl7v2::message::{LineEndings, Message};
use waymark_adapters::hl7v2::mllp::{MllpCodec, MllpError};
use waymark_core::referral::SenderReference;
use waymark_proto::v1;
use waymark_proto::v1::get_receipt_request::Subject;
use waymark_proto::v1::referral_key::Key;

use super::super::client::{ClientDuty, host_and_port};
use super::super::failure::Failure;
use super::super::receipts;
use super::outcome::{Refused, is_accept};
use super::{Accepted, Content, Options, Outcome, Sending, Source, source};
use crate::config::Config;

/// The longest that connecting, the TLS handshake included, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that an acknowledgement may take.
const ACK_TIMEOUT: Duration = Duration::from_mins(1);
/// How often one message is sent whose acknowledgement did not come, or said to try later.
const TRIES_MAX: u32 = 4;
/// The pause before it is sent again.
const PAUSE: Duration = Duration::from_millis(500);
/// HL7 error 207: the far side failed inside, and the same message may be sent again.
const TRY_LATER: u16 = 207;

/// A connection of either kind.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Connection = Framed<Box<dyn Wire>, MllpCodec>;

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    address: String,
    tls: bool,
}

/// Sends HL7 v2 files; each gets its outcome.
pub(super) async fn send(sending: &mut Sending<'_>, sources: &[Source]) -> anyhow::Result<()> {
    let listener = listener(sending.options)?;
    let mut connection = Some(connect(sending.options, &listener).await?);
    for source in sources {
        let (wire, envelope) = match source::read(source) {
            Ok(Content::Hl7(wire, envelope)) => (wire, envelope),
            Ok(Content::Referral(..) | Content::Fhir(..)) => continue,
            Err(refused) => {
                sending.done(source, Outcome::Refused(refused))?;
                continue;
            }
        };
        let mut outcome = exchange(
            sending.options,
            &listener,
            &mut connection,
            &wire,
            &envelope,
        )
        .await;
        if let Outcome::Accepted(accepted) = &mut outcome {
            with_receipt(sending, &wire, accepted).await;
        }
        sending.done(source, outcome)?;
    }
    Ok(())
}

/// Finds the listener: the address or name given, else the first of waymark.toml.
fn listener(options: &Options) -> anyhow::Result<Listener> {
    let given = options.mllp.as_deref();
    if let Some(address) = given.filter(|text| text.contains(':')) {
        host_and_port(address)?;
        return Ok(Listener {
            address: address.to_owned(),
            tls: !options.mllp_plain,
        });
    }
    let path = &options.client.config;
    let config = Config::load(path)
        .with_context(|| format!("no --mllp HOST:PORT; read {}", path.display()))?;
    let mut listeners = config.listen.mllp.iter();
    let found = match given {
        Some(name) => listeners.find(|l| l.name == name),
        None => listeners.next(),
    };
    let what = given.map_or_else(
        || "no MLLP listener".to_owned(),
        |name| format!("no MLLP listener {name}"),
    );
    let found = found.ok_or_else(|| {
        Failure::usage(format!(
            "{what} in {}: give --mllp HOST:PORT",
            path.display()
        ))
    })?;
    Ok(Listener {
        address: found.address.to_string(),
        tls: found.tls,
    })
}

async fn connect(options: &Options, listener: &Listener) -> anyhow::Result<Connection> {
    let hint = if listener.tls {
        ", speaking TLS (a plain one needs --mllp-plain)"
    } else {
        ""
    };
    let what = || format!("the MLLP listener at {}{hint}", listener.address);
    let (host, port) = host_and_port(&listener.address)?;
    let tls = listener
        .tls
        .then(|| options.client.resolve(ClientDuty::Agency)?.rustls())
        .transpose()?;
    let connecting = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let wire: Box<dyn Wire> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Box::new(TlsConnector::from(config).connect(name, stream).await?)
            }
        };
        Ok::<_, io::Error>(Framed::new(wire, MllpCodec::default()))
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(Failure::unreachable(what(), error)),
        Err(_) => Err(Failure::unreachable(
            what(),
            io::Error::from(io::ErrorKind::TimedOut),
        )),
    }
}

/// Sends one message until it is answered for good: the same bytes under the same MSH-10, which the gateway recognises.
async fn exchange(
    options: &Options,
    listener: &Listener,
    connection: &mut Option<Connection>,
    wire: &[u8],
    envelope: &Envelope,
) -> Outcome {
    let mut outcome = Outcome::Unanswered {
        why: "it was not sent".to_owned(),
    };
    for attempt in 0..TRIES_MAX {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut open = match connection.take() {
            Some(open) => open,
            None => match connect(options, listener).await {
                Ok(open) => open,
                Err(error) => {
                    outcome = Outcome::Unanswered {
                        why: format!("{error:#}"),
                    };
                    continue;
                }
            },
        };
        match timeout(ACK_TIMEOUT, ask(&mut open, wire, envelope)).await {
            Ok(Ok(Answer::Final(answer))) => {
                *connection = Some(open);
                return answer;
            }
            Ok(Ok(Answer::Later(refused))) => {
                *connection = Some(open);
                outcome = Outcome::Unanswered {
                    why: refused.to_string(),
                };
            }
            Ok(Err(error)) => {
                outcome = Outcome::Unanswered {
                    why: error.to_string(),
                }
            }
            Err(_) => {
                outcome = Outcome::Unanswered {
                    why: "no acknowledgement came in time".to_owned(),
                }
            }
        }
    }
    outcome
}

/// What one try brought.
enum Answer {
    Final(Outcome),
    Later(Refused),
}

async fn ask(
    connection: &mut Connection,
    wire: &[u8],
    envelope: &Envelope,
) -> Result<Answer, MllpError> {
    connection.send(wire).await?;
    if !expects_answer(envelope) {
        return Ok(Answer::Final(Outcome::Unanswered {
            why: "its MSH-15 and MSH-16 ask for no acknowledgement".to_owned(),
        }));
    }
    loop {
        let frame = connection.next().await.ok_or(MllpError::CutOff)??;
        let read = Message::parse(&frame.body, LineEndings::Cr)
            .and_then(|m| AckReading::read(&m).map(|r| (m, r)));
        let Ok((message, reading)) = read else {
            return Ok(Answer::Final(Outcome::Unanswered {
                why: "the answer is no acknowledgement".to_owned(),
            }));
        };
        // An acknowledgement of an earlier message, late: this one's is still to come.
        if reading.control_id != envelope.control_id {
            continue;
        }
        if !is_accept(reading.code) {
            let refused = Refused::of_ack(&message, &reading);
            let later = reading.error_code == Some(TRY_LATER);
            return Ok(if later {
                Answer::Later(refused)
            } else {
                Answer::Final(Outcome::Refused(refused))
            });
        }
        if reading.code == AckCode::CommitAccept && wants_application_ack(envelope) {
            continue;
        }
        let acknowledgement = Some(reading.code.code());
        return Ok(Answer::Final(Outcome::Accepted(Accepted {
            acknowledgement,
            ..Accepted::default()
        })));
    }
}

/// Whether an accepted message is answered at all.
fn expects_answer(envelope: &Envelope) -> bool {
    let is_original = envelope.accept_ack == AckCondition::Unstated
        && envelope.application_ack == AckCondition::Unstated;
    is_original || on_success(envelope.accept_ack) || on_success(envelope.application_ack)
}

/// Whether the commit acknowledgement of an accepted message is followed by another.
fn wants_application_ack(envelope: &Envelope) -> bool {
    on_success(envelope.application_ack)
}

fn on_success(condition: AckCondition) -> bool {
    match condition {
        AckCondition::Always | AckCondition::OnSuccess => true,
        AckCondition::Never | AckCondition::OnError | AckCondition::Unstated => false,
    }
}

/// Fetches and writes the receipt of an accepted referral, over gRPC by its RF1-6, when receipts are asked for.
async fn with_receipt(sending: &mut Sending<'_>, wire: &[u8], accepted: &mut Accepted) {
    let Some(folder) = sending.options.receipts.clone() else {
        return;
    };
    let Ok(rf1) = Message::parse(wire, LineEndings::Cr).and_then(|message| Rf1::read(&message))
    else {
        return;
    };
    let reference = SenderReference {
        value: rf1.originating.id,
        namespace: rf1.originating.namespace,
    };
    let key = Key::SenderReference(sender_reference_to_proto(&reference));
    let acknowledgement = accepted.acknowledgement;
    let fetched = async {
        let channel = sending.channel().await?;
        receipts::fetch(channel, Subject::Key(v1::ReferralKey { key: Some(key) })).await
    };
    *accepted = match fetched.await {
        Err(error) => accepted.clone().with_receipt(Err(error)),
        Ok(receipt) => {
            let vkey = sending.options.client.log_vkey();
            let saved = vkey.and_then(|key| receipts::save(&folder, &receipt, key.as_ref()));
            Accepted {
                acknowledgement,
                ..Accepted::of(&receipt).with_receipt(saved)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use waymark_adapters::hl7v2::mllp::frame;

    use super::*;

    fn envelope(accept: &str, application: &str) -> Envelope {
        let text = format!("MSH|^~\\&|A|B|C|D|2026||REF^I12|M1|T|2.5|||{accept}|{application}\r");
        Envelope::read(&Message::parse(text.as_bytes(), LineEndings::Cr).unwrap()).unwrap()
    }

    fn ack(code: &str, id: &str, rest: &str) -> Vec<u8> {
        let text = format!("MSH|^~\\&|C|D|A|B|2026||ACK|9|T|2.5\rMSA|{code}|{id}\r{rest}");
        frame(text.as_bytes()).unwrap().to_vec()
    }

    /// What one message is answered when the far side writes these acknowledgements and then closes.
    async fn answered(envelope: &Envelope, acks: &[Vec<u8>]) -> Result<Answer, MllpError> {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        for ack in acks {
            far.write_all(ack).await.unwrap();
        }
        let near: Box<dyn Wire> = Box::new(near);
        let mut connection = Framed::new(near, MllpCodec::default());
        let far_side = async {
            let mut sent = vec![0; 5];
            far.read_exact(&mut sent).await.unwrap();
            assert_eq!(sent, b"\x0bm\r\x1c\r");
            drop(far);
        };
        tokio::join!(ask(&mut connection, b"m\r", envelope), far_side).0
    }

    fn outcome(answer: Result<Answer, MllpError>) -> Outcome {
        match answer {
            Ok(Answer::Final(outcome)) => outcome,
            Ok(Answer::Later(refused)) => panic!("later: {refused}"),
            Err(error) => panic!("{error}"),
        }
    }

    fn accepted(outcome: &Outcome) -> Option<&'static str> {
        match outcome {
            Outcome::Accepted(accepted) => accepted.acknowledgement,
            _ => None,
        }
    }

    #[tokio::test]
    async fn an_acknowledgement_of_another_message_is_passed_over() {
        let acks = [ack("AE", "M0", ""), ack("AA", "M1", "")];
        assert_eq!(
            accepted(&outcome(answered(&envelope("", ""), &acks).await)),
            Some("AA")
        );
    }

    #[tokio::test]
    async fn a_commit_acknowledgement_is_not_the_end_where_another_is_asked_for() {
        let acks = [ack("CA", "M1", ""), ack("AA", "M1", "")];
        assert_eq!(
            accepted(&outcome(answered(&envelope("AL", "AL"), &acks).await)),
            Some("AA")
        );
        assert_eq!(
            accepted(&outcome(answered(&envelope("AL", "NE"), &acks).await)),
            Some("CA")
        );
        let refused = [ack("CE", "M1", "ERR||RF1^1^6|205|E|||in use\r")];
        assert!(matches!(
            outcome(answered(&envelope("AL", "AL"), &refused).await),
            Outcome::Refused(_)
        ));
    }

    #[tokio::test]
    async fn a_message_is_tried_again_only_where_the_far_side_failed_inside() {
        let later = [ack("AE", "M1", "ERR|||207|E\r")];
        assert!(matches!(
            answered(&envelope("", ""), &later).await,
            Ok(Answer::Later(_))
        ));
        let never = [ack("AE", "M1", "ERR|||102|E\r")];
        assert!(matches!(
            outcome(answered(&envelope("", ""), &never).await),
            Outcome::Refused(_)
        ));
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_its_answer_is_an_error_and_no_outcome() {
        assert!(answered(&envelope("", ""), &[]).await.is_err());
    }

    #[tokio::test]
    async fn what_asks_for_no_answer_is_not_waited_for() {
        let answer = answered(&envelope("NE", "NE"), &[]).await;
        assert!(matches!(outcome(answer), Outcome::Unanswered { .. }));
    }
}
