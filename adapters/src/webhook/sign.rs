//! Signatures of Standard Webhooks (version `v1`): HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use waymark_core::time::Timestamp;

/// Header of the message's id, the same on every attempt.
pub const ID_HEADER: &str = "webhook-id";
/// Header of the instant of signing, seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header of the signatures, separated by spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
/// How far a signature's instant may lie from ours, either way.
pub const WINDOW: Duration = Duration::from_mins(5);
/// The most signatures that are looked at.
pub const SIGNATURES_MAX: usize = 8;
/// The most bytes of an id.
pub const ID_BYTES_MAX: usize = 128;

/// What a secret begins with when it is written down.
const SECRET_PREFIX: &str = "whsec_";
/// The bytes that a secret has: Standard Webhooks asks for 24 to 64.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const VERSION: &str = "v1";

/// A secret shared with one agency.
#[derive(Clone)]
pub struct WebhookSecret(Key);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// A secret that is not base64 of 24 to 64 bytes, with or without `whsec_` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a webhook secret: write whsec_ and base64 of 24 to 64 bytes")]
pub struct SecretError;

impl WebhookSecret {
    /// Reads a secret as it is written down.
    ///
    /// # Errors
    /// [`SecretError`] when it is not one.
    pub fn parse(text: &[u8]) -> Result<Self, SecretError> {
        let text = std::str::from_utf8(text).map_err(|_| SecretError)?.trim();
        let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        let bytes = zeroize::Zeroizing::new(STANDARD.decode(encoded).map_err(|_| SecretError)?);
        if SECRET_BYTES.contains(&bytes.len()) {
            Ok(Self(Key::new(HMAC_SHA256, &bytes)))
        } else {
            Err(SecretError)
        }
    }
}

/// Writes the signature header: one signature for each secret.
pub fn signature(secrets: &[WebhookSecret], id: &str, at: Timestamp, body: &[u8]) -> String {
    let content = content(id, seconds(at), body);
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| format!("{VERSION},{}", STANDARD.encode(sign(&secret.0, &content))))
        .collect();
    signatures.join(" ")
}

/// The instant as the timestamp header has it.
pub fn seconds(at: Timestamp) -> i64 {
    at.as_ms().div_euclid(1_000)
}

/// Why a signed request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header is missing or not text.
    #[error("header {0} is missing or malformed")]
    Header(&'static str),
    /// Signed too long ago or too far ahead.
    #[error("signed more than 5 minutes from now")]
    OutsideWindow,
    /// No signature is by a secret of this agency.
    #[error("no signature matches")]
    NoMatch,
}

/// Checks a signed request and answers its id.
///
/// # Errors
/// [`SignatureError`] when a header is missing, the instant is outside the window or no signature matches.
pub fn check<'a>(
    headers: &'a HeaderMap,
    body: &[u8],
    secrets: &[WebhookSecret],
    now: Timestamp,
) -> Result<&'a str, SignatureError> {
    let header = |name: &'static str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value
            .filter(|text| !text.is_empty())
            .ok_or(SignatureError::Header(name))
    };
    let id = header(ID_HEADER)?;
    if id.len() > ID_BYTES_MAX {
        return Err(SignatureError::Header(ID_HEADER));
    }
    let at: i64 = header(TIMESTAMP_HEADER)?
        .parse()
        .map_err(|_| SignatureError::Header(TIMESTAMP_HEADER))?;
    if seconds(now).abs_diff(at) > WINDOW.as_secs() {
        return Err(SignatureError::OutsideWindow);
    }
    let given = header(SIGNATURE_HEADER)?;
    let content = content(id, at, body);
    let matches = given
        .split(' ')
        .take(SIGNATURES_MAX)
        .filter_map(|one| one.split_once(','))
        .filter(|(version, _)| *version == VERSION)
        .filter_map(|(_, encoded)| STANDARD.decode(encoded).ok())
        // `verify` compares in constant time.
        .any(|tag| {
            secrets
                .iter()
                .any(|secret| verify(&secret.0, &content, &tag).is_ok())
        });
    if matches {
        Ok(id)
    } else {
        Err(SignatureError::NoMatch)
    }
}

fn content(id: &str, at: i64, body: &[u8]) -> Vec<u8> {
    let mut content = format!("{id}.{at}.").into_bytes();
    content.extend_from_slice(body);
    content
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_772_445_600_000);

    fn secret(seed: u8) -> (String, WebhookSecret) {
        let text = format!("{SECRET_PREFIX}{}", STANDARD.encode([seed; 24]));
        (text.clone(), WebhookSecret::parse(text.as_bytes()).unwrap())
    }

    fn headers(id: &str, at: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID_HEADER, HeaderValue::from_str(id).unwrap());
        headers.insert(TIMESTAMP_HEADER, HeaderValue::from(at));
        headers.insert(SIGNATURE_HEADER, HeaderValue::from_str(signature).unwrap());
        headers
    }

    fn signed(at: Timestamp, secrets: &[WebhookSecret]) -> HeaderMap {
        headers("WM1", seconds(at), &signature(secrets, "WM1", at, b"body"))
    }

    #[test]
    fn a_signature_counts_within_five_minutes_either_way_and_no_longer() {
        let (_, key) = secret(1);
        let keys = [key];
        let shifted = |s: i64| Timestamp::from_ms(NOW.as_ms() + s * 1_000);
        for good in [0, 300, -300] {
            assert_eq!(
                check(&signed(shifted(good), &keys), b"body", &keys, NOW),
                Ok("WM1")
            );
        }
        for bad in [301, -301] {
            let headers = signed(shifted(bad), &keys);
            let refused = check(&headers, b"body", &keys, NOW);
            assert_eq!(refused, Err(SignatureError::OutsideWindow), "{bad}");
        }
    }

    #[test]
    fn either_of_two_secrets_verifies_during_rotation() {
        let (old, new) = (secret(1).1, secret(2).1);
        let both = signed(NOW, &[new.clone(), old.clone()]);
        for one in [&old, &new] {
            assert!(check(&both, b"body", std::slice::from_ref(one), NOW).is_ok());
        }
        let stranger = [secret(3).1];
        assert_eq!(
            check(&both, b"body", &stranger, NOW),
            Err(SignatureError::NoMatch)
        );
        assert_eq!(
            check(&both, b"body", &[], NOW),
            Err(SignatureError::NoMatch)
        );
    }

    #[test]
    fn a_changed_body_id_instant_or_version_is_refused() {
        let keys = [secret(1).1];
        let good = signature(&keys, "WM1", NOW, b"body");
        let at = seconds(NOW);
        let refused =
            |headers: &HeaderMap, body: &[u8]| check(headers, body, &keys, NOW).unwrap_err();
        assert_eq!(
            refused(&headers("WM1", at, &good), b"bodY"),
            SignatureError::NoMatch
        );
        assert_eq!(
            refused(&headers("WM2", at, &good), b"body"),
            SignatureError::NoMatch
        );
        assert_eq!(
            refused(&headers("WM1", at + 1, &good), b"body"),
            SignatureError::NoMatch
        );
        let v2 = good.replace("v1,", "v2,");
        assert_eq!(
            refused(&headers("WM1", at, &v2), b"body"),
            SignatureError::NoMatch
        );
        for name in [ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER] {
            let mut less = headers("WM1", at, &good);
            less.remove(name);
            assert_eq!(refused(&less, b"body"), SignatureError::Header(name));
        }
        let long = headers(&"x".repeat(ID_BYTES_MAX + 1), at, &good);
        assert_eq!(refused(&long, b"body"), SignatureError::Header(ID_HEADER));
    }

    #[test]
    fn only_so_many_signatures_are_looked_at() {
        let keys = [secret(1).1];
        let good = signature(&keys, "WM1", NOW, b"body");
        let after = |n: usize| {
            headers(
                "WM1",
                seconds(NOW),
                &format!("{}{good}", "v1,AAAA ".repeat(n)),
            )
        };
        assert!(check(&after(SIGNATURES_MAX - 1), b"body", &keys, NOW).is_ok());
        assert!(check(&after(SIGNATURES_MAX), b"body", &keys, NOW).is_err());
    }

    #[test]
    fn a_secret_has_24_to_64_bytes_and_is_never_shown() {
        let parse = |n: usize| WebhookSecret::parse(STANDARD.encode(vec![9; n]).as_bytes());
        assert!(parse(24).is_ok() && parse(64).is_ok());
        assert!(parse(23).is_err() && parse(65).is_err());
        assert!(WebhookSecret::parse(b"whsec_not base64!").is_err());
        assert_eq!(format!("{:?}", secret(1).1), "WebhookSecret");
    }

    proptest! {
        #[test]
        fn the_reference_implementation_signs_the_same(
            seed: u8, id in "[A-Z0-9]{1,20}", body in "\\PC{0,200}", at in 0i64..4_000_000_000,
        ) {
            let (text, ours) = secret(seed);
            let theirs = standardwebhooks::Webhook::new(&text).unwrap();
            let expected = theirs.sign(&id, at, body.as_bytes()).unwrap();
            let instant = Timestamp::from_ms(at * 1_000 + 999);
            prop_assert_eq!(signature(&[ours], &id, instant, body.as_bytes()), expected);
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "the reference implementation reads the real clock"
    )]
    fn the_reference_implementation_takes_what_we_sign_and_we_take_what_it_signs() {
        let (text, ours) = secret(7);
        let theirs = standardwebhooks::Webhook::new(&text).unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let now = Timestamp::from_ms(i64::try_from(now.as_millis()).unwrap());
        let other = secret(8).1;
        let rotated = signature(&[other, ours.clone()], "WM1", now, b"{}");
        assert!(
            theirs
                .verify(b"{}", &headers("WM1", seconds(now), &rotated))
                .is_ok()
        );
        assert!(
            theirs
                .verify(b"{ }", &headers("WM1", seconds(now), &rotated))
                .is_err()
        );
        let by_them = theirs.sign("msg_1", seconds(now), b"{}").unwrap();
        assert_eq!(
            check(
                &headers("msg_1", seconds(now), &by_them),
                b"{}",
                &[ours],
                now
            ),
            Ok("msg_1")
        );
    }
}
