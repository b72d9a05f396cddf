//! The bounds of everything that an adapter waits for or reads.

use std::time::Duration;

/// The longest that reaching a peer may take: name, TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a probe waits, after a handshake, for a peer of TLS 1.3 to refuse our certificate.
pub const ALERT_WAIT: Duration = Duration::from_secs(1);
/// The most bytes of an answer that are read.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The most headers of an answer.
pub const ANSWER_HEADERS_MAX: usize = 64;
/// The most bytes of one rendered message.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The longest hint of a receiver that is passed on; the endpoint's own policy clamps it further.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);
/// The most addresses of one name that are looked at.
pub const ADDRESSES_MAX: usize = 16;
/// The most endpoints whose connections are kept.
pub const POOL_ENTRIES_MAX: usize = 4_096;
/// How long a connection serves before its peer must prove itself again.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_mins(15);
/// The most characters of a receiver's reference that are kept.
pub const REFERENCE_CHARS_MAX: usize = 80;

/// Why an answer's body was not read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than the limit.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// It had not ended by the deadline.
    #[error("the answer had not ended within the deadline")]
    Late,
    /// The connection ended within it.
    #[error("the answer broke off")]
    BrokeOff,
}

/// Reads a body up to a limit, and no byte beyond it.
///
/// # Errors
/// [`BodyError`] when it is longer or breaks off.
pub(crate) async fn read_capped(
    response: &mut reqwest::Response,
    bytes_max: usize,
) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| BodyError::BrokeOff)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(BodyError::TooLong(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
