//! A hospital that says yes at once, so that delivery runs while accepts are measured.

use std::convert::Infallible;
use std::net::SocketAddr;

use futures::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::Framed;
use waymark_adapters::hl7v2::message::{LineEndings, Message};
use waymark_adapters::hl7v2::mllp::MllpCodec;

use crate::lifecycle::{FailureEffect, Lifecycle};

/// Listens until the process stops; answers where.
pub(super) async fn start(lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let bound = listener.local_addr()?;
    let tasks = lifecycle.clone();
    lifecycle.spawn("bench hospital", FailureEffect::Log, async move {
        let stop = tasks.stopping();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok::<(), std::io::Error>(()),
                accepted = listener.accept() => accepted?,
            };
            tasks.spawn(
                "bench hospital connection",
                FailureEffect::Log,
                async move {
                    serve(accepted.0).await;
                    Ok::<(), Infallible>(())
                },
            );
        }
    });
    Ok(bound)
}

async fn serve(stream: TcpStream) {
    let mut frames = Framed::new(stream, MllpCodec::default());
    while let Some(Ok(frame)) = frames.next().await {
        let Ok(message) = Message::parse(&frame.body, LineEndings::Cr) else {
            return;
        };
        let Some(header) = message.segment("MSH", 1) else {
            return;
        };
        let id = header.text(10, 1);
        let answer = format!(
            "MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|20260302103001||ACK^I12^ACK|A{id}|T|2.5\rMSA|AA|{id}\r"
        );
        if frames.send(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
