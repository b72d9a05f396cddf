//! The hospital: takes referrals over MLLP, acknowledges them, and answers some with an RRI of its own.
//!
//! It can be taken down and brought back. While it is down its port stays its own and refuses connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;
use waymark_adapters::hl7v2::ack::{Ack, AckCode, AckReading};
use waymark_adapters::hl7v2::build::{
    AckMode, Header, Party, Processing, SegmentWriter, Version, write,
};
use waymark_adapters::hl7v2::charset::Charset;
use waymark_adapters::hl7v2::config::Assumptions;
use waymark_adapters::hl7v2::content::Envelope;
use waymark_adapters::hl7v2::fault::FieldFault;
use waymark_adapters::hl7v2::map::inward;
use waymark_adapters::hl7v2::map::outward::SERVICE_ID_KIND;
use waymark_adapters::hl7v2::message::{LineEndings, Message};
use waymark_adapters::hl7v2::mllp::MllpCodec;
use waymark_adapters::hl7v2::referral::RefMessage;
use waymark_core::delivery::Kind;
use waymark_core::directory::CodeMap;
use waymark_core::id::Pathway;
use waymark_core::port::InboundBody;
use waymark_core::time::Clock as _;

use super::ANSWERED_PATHWAY;
use super::answer;
use super::ledger::{Arrival, Ledger, Taken};
use crate::clock::SystemClock;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// The hospital's ODS code.
pub(super) const AGENCY: &str = "R1L";

/// Connections that wait to be taken.
const BACKLOG: u32 = 64;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_mins(1);
/// How long the hospital may take to go down or come back.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// Whether the hospital answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// It does.
    Up,
    /// Connections are refused.
    Down,
}

/// The running hospital.
pub(super) struct Hospital {
    /// Where it takes referrals.
    pub(super) address: SocketAddr,
    /// What it took.
    pub(super) ledger: Arc<Ledger>,
    wish: watch::Sender<Power>,
    state: watch::Receiver<Power>,
    gateway: watch::Sender<Option<SocketAddr>>,
}

struct Desk {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    lifecycle: Lifecycle,
    gateway: watch::Receiver<Option<SocketAddr>>,
    /// Keeps the wish alive: a hospital whose owner is gone stays as it is until the process stops.
    _wish: watch::Sender<Power>,
    /// Messages of its own written so far: each has an id of its own.
    written: AtomicU32,
}

impl Hospital {
    /// Takes an address and opens.
    ///
    /// # Errors
    /// When no port is free.
    pub(super) fn open(lifecycle: &Lifecycle) -> anyhow::Result<Self> {
        let socket =
            reserve((Ipv4Addr::LOCALHOST, 0).into()).context("take a port for the hospital")?;
        let address = socket.local_addr()?;
        let ledger = Arc::new(Ledger::new(AGENCY));
        let (wish, wished) = watch::channel(Power::Up);
        let (stating, state) = watch::channel(Power::Down);
        let (gateway, gateway_seen) = watch::channel(None);
        let desk = Arc::new(Desk {
            address,
            ledger: Arc::clone(&ledger),
            lifecycle: lifecycle.clone(),
            gateway: gateway_seen,
            _wish: wish.clone(),
            written: AtomicU32::new(0),
        });
        lifecycle.spawn(
            "demo hospital",
            FailureEffect::EndProcess,
            desk.run(socket, wished, stating),
        );
        Ok(Self {
            address,
            ledger,
            wish,
            state,
            gateway,
        })
    }

    /// Says where the gateway takes answers.
    pub(super) fn answer_to(&self, gateway: SocketAddr) {
        self.gateway.send_replace(Some(gateway));
    }

    /// Takes the hospital down, or brings it back; returns once it is.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub(super) async fn turn(&self, power: Power) -> anyhow::Result<()> {
        self.wish.send_replace(power);
        let mut state = self.state.clone();
        let turned = timeout(TURN_WITHIN, state.wait_for(|now| *now == power)).await;
        turned
            .context("the hospital did not turn in time")?
            .context("the hospital is gone")?;
        Ok(())
    }
}

/// Binds without listening: the port is taken, and connections to it are refused.
fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Desk {
    async fn run(
        self: Arc<Self>,
        mut socket: TcpSocket,
        mut wish: watch::Receiver<Power>,
        state: watch::Sender<Power>,
    ) -> anyhow::Result<()> {
        let stop = self.lifecycle.stopping();
        loop {
            state.send_replace(Power::Down);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                wished = wish.wait_for(|power| *power == Power::Up) => drop(wished.context("nobody holds the hospital")?),
            }
            let listener = socket.listen(BACKLOG).context("open the hospital")?;
            state.send_replace(Power::Up);
            let closing = CancellationToken::new();
            self.accept(listener, &closing, &mut wish, &stop).await?;
            closing.cancel();
            if stop.is_cancelled() {
                return Ok(());
            }
            socket = reserve(self.address).context("keep the hospital's port")?;
        }
    }

    /// Takes connections until it is to go down.
    async fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        closing: &CancellationToken,
        wish: &mut watch::Receiver<Power>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                wished = wish.wait_for(|power| *power == Power::Down) => {
                    drop(wished.context("nobody holds the hospital")?);
                    return Ok(());
                }
                accepted = listener.accept() => {
                    let (stream, _) = accepted.context("take a connection")?;
                    let (desk, closing, stop) = (Arc::clone(self), closing.clone(), stop.clone());
                    self.lifecycle.spawn("demo hospital connection", FailureEffect::Log, async move {
                        tokio::select! {
                            () = stop.cancelled() => Ok(()),
                            () = closing.cancelled() => Ok(()),
                            ended = desk.converse(stream) => ended,
                        }
                    });
                }
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) -> anyhow::Result<()> {
        let mut frames = Framed::new(stream, MllpCodec::default());
        while let Some(frame) = timeout(IDLE, frames.next())
            .await
            .context("a silent connection")?
        {
            let body = frame?.body;
            let message =
                Message::parse(&body, LineEndings::Cr).map_err(|fault| self.refused(&fault))?;
            let envelope = Envelope::read(&message).map_err(|fault| self.refused(&fault))?;
            let taken = self.take(&message, &envelope, &body);
            let code = match &taken {
                Ok(_) => AckCode::ApplicationAccept,
                Err(_) => AckCode::ApplicationError,
            };
            let fault = taken.as_ref().err();
            let ack = self.ack(&envelope, code, fault);
            frames.send(ack.as_bytes()).await?;
            match taken {
                Ok(Some(arrival)) => self.answer_later(arrival),
                Ok(None) => {}
                Err(fault) => drop(self.refused(&fault)),
            }
        }
        Ok(())
    }

    fn refused(&self, fault: &FieldFault) -> anyhow::Error {
        self.ledger
            .fault(format!("a message could not be read: {fault}"));
        anyhow::anyhow!("a message could not be read")
    }

    /// Takes one message; answers it if it is new and is to be answered.
    fn take(
        &self,
        message: &Message,
        envelope: &Envelope,
        body: &[u8],
    ) -> Result<Option<Arrival>, FieldFault> {
        let referral = RefMessage::read(message)?;
        let service = referral.provider("RT").and_then(|provider| {
            provider
                .ids
                .iter()
                .find(|id| id.kind == SERVICE_ID_KIND)
                .map(|id| id.value.clone())
        });
        let (kind, content) = match inward::read(&referral, &assumptions()?, &CodeMap::default())? {
            InboundBody::Submit(content) => (Kind::New, Some(*content)),
            InboundBody::Amend(_, content) => (Kind::Amend, Some(*content)),
            InboundBody::Cancel(..)
            | InboundBody::Withdraw(..)
            | InboundBody::Status(_)
            | InboundBody::Undelivered(_)
            | InboundBody::Enquiry(_) => (Kind::Cancel, None),
        };
        let arrival = Arrival {
            wire_id: envelope.control_id.clone(),
            kind,
            reference: referral.rf1.originating.id.clone(),
            service: service.unwrap_or_default(),
            content,
        };
        let answered = kind == Kind::New
            && arrival
                .content
                .as_ref()
                .is_some_and(|c| c.pathway.as_str() == ANSWERED_PATHWAY);
        let first = self.ledger.take(arrival.clone(), body) == Taken::First;
        Ok((first && answered).then_some(arrival))
    }

    fn ack(&self, envelope: &Envelope, code: AckCode, fault: Option<&FieldFault>) -> String {
        Ack {
            answers: envelope,
            control_id: &format!("R1LA{}", self.written.fetch_add(1, Ordering::Relaxed)),
            at: now(),
            processing: Processing::Training,
            code,
            fault,
        }
        .write()
    }

    fn answer_later(self: &Arc<Self>, arrival: Arrival) {
        let desk = Arc::clone(self);
        let what = format!("the answer to {}", arrival.wire_id);
        let control_id = format!("R1LR{}", self.written.fetch_add(1, Ordering::Relaxed));
        let said = Arc::new((arrival, control_id));
        answer::later(&self.lifecycle, &self.ledger, what, move || {
            let (desk, said) = (Arc::clone(&desk), Arc::clone(&said));
            async move {
                let mut gateway = desk.gateway.clone();
                let known = *gateway.wait_for(Option::is_some).await?;
                let gateway = known.context("no gateway")?;
                desk.send_answer(&said.0, &said.1, gateway).await
            }
        });
    }

    async fn send_answer(
        &self,
        arrival: &Arrival,
        control_id: &str,
        gateway: SocketAddr,
    ) -> anyhow::Result<()> {
        let stream = TcpStream::connect(gateway)
            .await
            .context("connect to the gateway")?;
        let mut frames = Framed::new(stream, MllpCodec::default());
        frames
            .send(accepted(arrival, control_id).as_bytes())
            .await
            .context("send the answer")?;
        let Some(frame) = frames.next().await else {
            bail!("the gateway closed the connection")
        };
        let message = Message::parse(&frame?.body, LineEndings::Cr)?;
        let reading = AckReading::read(&message)?;
        ensure!(
            reading.control_id == control_id,
            "the acknowledgement is for another message"
        );
        ensure!(
            reading.code == AckCode::ApplicationAccept,
            "the gateway answered {} {}",
            reading.code.code(),
            reading.text.unwrap_or_default()
        );
        Ok(())
    }
}

fn assumptions() -> Result<Assumptions, FieldFault> {
    let pathway = ANSWERED_PATHWAY.parse::<Pathway>();
    pathway
        .map(Assumptions::of)
        .map_err(|_| FieldFault::missing_segment("RF1"))
}

/// RRI^I12 with RF1-1 `A`: the hospital takes the child on.
fn accepted(arrival: &Arrival, control_id: &str) -> String {
    let party = |app: &str, facility: &str| Party {
        app: app.to_owned(),
        facility: facility.to_owned(),
    };
    let header = Header {
        version: Version::V25,
        sending: party("EPR", AGENCY),
        receiving: party("WAYMARK", "SOUTHMERE"),
        at: now(),
        control_id: control_id.to_owned(),
        processing: Processing::Training,
        ack_mode: AckMode::Original,
        charset: Charset::Utf8,
    };
    write(&[
        header.segment(&["RRI", "I12", "RRI_I12"]),
        SegmentWriter::new("MSA")
            .text(1, "AA")
            .text(2, &arrival.wire_id),
        SegmentWriter::new("RF1")
            .set(1, &["A", "Accepted", "HL70283"])
            .set(6, &[&arrival.reference, "WAYMARK"])
            .set(11, &[&format!("R1L-{}", arrival.wire_id), "EPR"]),
        SegmentWriter::new("PRD")
            .set(1, &["RT", "Referred to Provider", "HL70286"])
            .set(7, &[AGENCY, "ODS"]),
        SegmentWriter::new("PID")
            .text(1, "1")
            .set(3, &[&arrival.reference, "", "", "WAYMARK", "VN"]),
    ])
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(SystemClock.now().as_ms()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use waymark_adapters::hl7v2::status::{ReferralStatus, RriMessage, Told};

    use super::*;

    #[tokio::test]
    async fn a_hospital_that_is_down_refuses_connections_and_comes_back_at_its_address() {
        let lifecycle = Lifecycle::new(Duration::from_secs(1));
        let hospital = Hospital::open(&lifecycle).unwrap();
        for _ in 0..3 {
            hospital.turn(Power::Up).await.unwrap();
            TcpStream::connect(hospital.address).await.unwrap();
            hospital.turn(Power::Down).await.unwrap();
            let refused = TcpStream::connect(hospital.address).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
        lifecycle.stop();
    }

    #[test]
    fn its_answer_is_an_accepted_rri_for_the_delivery() {
        let arrival = Arrival {
            wire_id: "WM0123456789ABCDEFGH".to_owned(),
            kind: Kind::New,
            reference: "WM-AAAAA-BBBBB-CCCCC".to_owned(),
            service: "community-paediatrics".to_owned(),
            content: None,
        };
        let text = accepted(&arrival, "R1L1");
        let message = Message::parse(text.as_bytes(), LineEndings::Cr).unwrap();
        let rri = RriMessage::read(&message).unwrap();
        let told = rri.status(&CodeMap::default()).unwrap();
        assert_eq!(told, Told::Table(ReferralStatus::Accepted));
        assert_eq!(
            rri.answers.map(|it| (it.code, it.control_id)),
            Some((AckCode::ApplicationAccept, arrival.wire_id))
        );
        assert_eq!(rri.rf1.originating.id, arrival.reference);
    }
}
