//! FHIR message bundles by `$process-message` over mutual TLS: one at a time, each answered before the next goes.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes, to_bytes};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use waymark_adapters::fhir::send::{Answered, answer_of};

use super::super::client::{ClientDuty, host_and_port};
use super::super::failure::Failure;
use super::outcome::Refused;
use super::{Accepted, Content, Options, Outcome, Sending, Source, source};
use crate::config::Config;

/// The longest that one exchange may take, connecting included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often one message is sent whose answer did not come, or said to try later.
const TRIES_MAX: u32 = 4;
/// The pause before it is sent again.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Sends FHIR files; each gets its outcome.
pub(super) async fn send(sending: &mut Sending<'_>, sources: &[Source]) -> anyhow::Result<()> {
    let address = listener(sending.options)?;
    for source in sources {
        let outcome = match source::read(source) {
            Ok(Content::Fhir(bytes, headers)) => {
                exchange(sending.options, &address, bytes.into(), &headers).await?
            }
            Ok(Content::Referral(..) | Content::Hl7(..)) => continue,
            Err(refused) => Outcome::Refused(refused),
        };
        sending.done(source, outcome)?;
    }
    Ok(())
}

/// Finds the listener: the address given, else the one of waymark.toml.
fn listener(options: &Options) -> anyhow::Result<String> {
    if let Some(address) = &options.fhir {
        host_and_port(address)?;
        return Ok(address.clone());
    }
    let path = &options.client.config;
    let config = Config::load(path)
        .with_context(|| format!("no --fhir HOST:PORT; read {}", path.display()))?;
    let found = config.listen.fhir.map(|listen| listen.address.to_string());
    found.ok_or_else(|| {
        Failure::usage(format!(
            "no FHIR listener in {}: give --fhir HOST:PORT",
            path.display()
        ))
    })
}

/// Sends one message until it is answered for good: the same bytes under the same ids, which the gateway recognises.
async fn exchange(
    options: &Options,
    address: &str,
    bytes: Bytes,
    headers: &HeaderMap,
) -> anyhow::Result<Outcome> {
    let mut why = "it was not sent".to_owned();
    for attempt in 0..TRIES_MAX {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let asking = ask(options, address, bytes.clone(), headers);
        let (status, body) = match timeout(EXCHANGE_TIMEOUT, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                why = format!("{error:#}");
                continue;
            }
            Err(_) => {
                "no answer came in time".clone_into(&mut why);
                continue;
            }
        };
        match answer_of(status, &body) {
            Answered::Later(code) => why = format!("the gateway answered {code}"),
            Answered::Taken { id, reference } => {
                return Ok(Outcome::Accepted(Accepted {
                    referral_id: id,
                    reference,
                    ..Accepted::default()
                }));
            }
            Answered::Repeated => return Ok(Outcome::Repeated(Accepted::default())),
            Answered::Refused { code, violations } => {
                return Ok(Outcome::Refused(Refused {
                    reason: code,
                    message: format!("answered {}", status.as_u16()),
                    violations,
                }));
            }
        }
    }
    Ok(Outcome::Unanswered { why })
}

async fn ask(
    options: &Options,
    address: &str,
    bytes: Bytes,
    headers: &HeaderMap,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (host, port) = host_and_port(address)?;
    let tls = options.client.resolve(ClientDuty::Agency)?.rustls()?;
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .context("connect to the FHIR listener")?;
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::post("/$process-message")
        .header(HOST, address)
        .header(CONTENT_TYPE, "application/fhir+json")
        .body(Full::new(bytes))?;
    request.headers_mut().extend(headers.clone());
    let asking = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await?;
        Ok::<_, anyhow::Error>((status, body))
    };
    tokio::select! {
        answer = asking => answer,
        ended = connection => Err(ended.err().map_or_else(|| anyhow::anyhow!("the connection ended early"), Into::into)),
    }
}
