//! The API key and the token made from it for each request (JWT, RFC 7519, HS256): issuer the service, issued now.
//!
//! A key is written `name-<service id>-<secret>`, both ids of 36 characters, and the name may hold hyphens: it is read
//! from the right.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use waymark_core::time::Timestamp;
use zeroize::Zeroizing;

/// Characters of a UUID, which service ids and secrets are.
const ID_CHARS: usize = 36;
/// The most characters of a key; its name is the rest.
const KEY_CHARS_MAX: usize = 512;

/// An API key, parsed.
pub(super) struct ApiKey {
    service: String,
    secret: Zeroizing<String>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").finish_non_exhaustive()
    }
}

impl ApiKey {
    /// Reads a key as the provider shows it.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim();
        if !text.is_ascii() || text.len() > KEY_CHARS_MAX {
            return None;
        }
        let rest = text.len().checked_sub(ID_CHARS)?;
        let (name, secret) = text.split_at_checked(rest)?;
        let name = name.strip_suffix('-')?;
        let (_, service) = name.split_at_checked(name.len().checked_sub(ID_CHARS)?)?;
        let id = |text: &str| uuid::Uuid::try_parse(text).is_ok();
        (id(service) && id(secret)).then(|| Self {
            service: service.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }

    /// The token of a request that is made now.
    pub(super) fn token(&self, now: Timestamp) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "typ": "JWT", "alg": "HS256" });
        let claims = json!({ "iss": self.service, "iat": now.as_ms().div_euclid(1_000) });
        let signed = format!("{}.{}", part(&header), part(&claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let tag = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "26785a09-ab16-4eb0-8407-a37497a57506";
    const SECRET: &str = "3d844edf-8d35-48ac-975b-e847b4f122b0";

    #[test]
    fn a_key_is_read_from_the_right_and_never_shown() {
        let text = format!("a-name-with-hyphens-{SERVICE}-{SECRET}\n");
        let key = ApiKey::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (key.service.as_str(), key.secret.as_str()),
            (SERVICE, SECRET)
        );
        assert!(!format!("{key:?}").contains(SECRET));
        for wrong in [
            "",
            SECRET,
            &format!("{SERVICE}{SECRET}"),
            &format!("name-{SERVICE}-{}", SECRET.replace('8', "x")),
            &format!("name-{SERVICE}-é{SECRET}"),
        ] {
            assert!(ApiKey::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(ApiKey::parse(&[0xff; 80]).is_none());
    }

    #[test]
    fn a_token_names_the_service_and_the_second_and_is_signed_with_the_secret() {
        let key = ApiKey::parse(format!("n-{SERVICE}-{SECRET}").as_bytes()).unwrap();
        let token = key.token(Timestamp::from_ms(1_772_445_600_999));
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, tag] = parts.as_slice() else {
            panic!("{token}")
        };
        let read = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(read(header), json!({ "typ": "JWT", "alg": "HS256" }));
        assert_eq!(
            read(claims),
            json!({ "iss": SERVICE, "iat": 1_772_445_600 })
        );
        let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
        let verify = |secret: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            hmac::verify(&key, format!("{header}.{claims}").as_bytes(), &tag)
        };
        assert!(verify(SECRET).is_ok() && verify(SERVICE).is_err());
    }
}
