//! Access tokens: client credentials with a signed JWT (RFC 7523; NHS England's application-restricted access).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA512, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::time::Duration;
use waymark_core::time::Timestamp;

use super::config::TokenSettings;

/// How long an assertion holds.
const ASSERTION_SECONDS: i64 = 300;
/// The most that a token is used for, whatever it says of itself.
const TOKEN_SECONDS_MAX: u64 = 3_600;
/// How long before its end a token is no longer used.
const EARLY: Duration = Duration::from_secs(30);
/// The most characters of a token.
const TOKEN_CHARS_MAX: usize = 16 * 1024;

/// Why there is no assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    /// It is no RSA key in PEM.
    #[error("is not an RSA private key in PEM")]
    Key,
    /// It does not sign.
    #[error("does not sign")]
    Sign,
}

/// The signed assertion, RS512.
pub(super) fn assertion(
    settings: &TokenSettings,
    key_pem: &[u8],
    id: &str,
    now: Timestamp,
) -> Result<String, KeyError> {
    let key = match PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| KeyError::Key)? {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        _ => return Err(KeyError::Key),
    };
    let key = key.map_err(|_| KeyError::Key)?;
    let header = json!({ "alg": "RS512", "typ": "JWT", "kid": settings.key_id });
    let claims = json!({
        "iss": settings.client_id,
        "sub": settings.client_id,
        "aud": settings.address.url.as_str(),
        "jti": id,
        "exp": now.as_ms() / 1_000 + ASSERTION_SECONDS,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA512,
        &SystemRandom::new(),
        signed.as_bytes(),
        &mut signature,
    )
    .map_err(|_| KeyError::Sign)?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The body of the request for a token.
pub(super) fn form(settings: &TokenSettings, assertion: &str) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials")
        .append_pair(
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        )
        .append_pair("client_assertion", assertion);
    if let Some(scope) = &settings.scope {
        form.append_pair("scope", scope);
    }
    form.finish()
}

/// Why a server gives no token, where it says so by a code of the standard (RFC 6749, 5.2).
pub(super) fn refusal(body: &[u8]) -> Option<&'static str> {
    const CODES: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let answer: Value = serde_json::from_slice(body).ok()?;
    let said = answer.get("error")?.as_str()?;
    CODES.into_iter().find(|code| *code == said)
}

/// A token and how long it is used.
pub(super) fn read(body: &[u8]) -> Option<(String, Duration)> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let token = answer.get("access_token")?.as_str()?;
    let bearer = answer
        .get("token_type")
        .and_then(Value::as_str)
        .unwrap_or("Bearer");
    // NHS England's server writes the number as a text.
    let seconds = match answer.get("expires_in") {
        Some(Value::String(text)) => text.parse().ok()?,
        Some(number) => number.as_u64()?,
        None => 60,
    };
    let good =
        (1..=TOKEN_CHARS_MAX).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
    let lasting = Duration::from_secs(seconds.min(TOKEN_SECONDS_MAX)).saturating_sub(EARLY);
    (good && bearer.eq_ignore_ascii_case("bearer")).then(|| (token.to_owned(), lasting))
}
