//! FHIR message bundles by `$process-message` over mutual TLS: one at a time, each answered before the next goes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use rustls::ClientConfig;
use tokio::time::timeout;
use waymark_adapters::fhir::send::{Answered, answer_of};

use super::super::client::{ClientDuty, host_and_port};
use super::super::failure::Failure;
use super::super::https;
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
    let tls = sending
        .options
        .client
        .resolve(ClientDuty::Agency)?
        .rustls()?;
    for source in sources {
        let outcome = match source::read(source) {
            Ok(Content::Fhir(bytes, headers)) => {
                exchange(&tls, &address, &bytes.into(), &headers).await?
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
    tls: &Arc<ClientConfig>,
    address: &str,
    bytes: &Bytes,
    headers: &HeaderMap,
) -> anyhow::Result<Outcome> {
    let mut why = "it was not sent".to_owned();
    for attempt in 0..TRIES_MAX {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut request = Request::post("/$process-message")
            .header(CONTENT_TYPE, "application/fhir+json")
            .body(Full::new(bytes.clone()))?;
        request.headers_mut().extend(headers.clone());
        let asking = https::ask(Arc::clone(tls), address, request, ANSWER_BYTES_MAX);
        let (status, body) = match timeout(EXCHANGE_TIMEOUT, asking).await {
            Ok(Ok(answer)) => (answer.status(), answer.into_body()),
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
