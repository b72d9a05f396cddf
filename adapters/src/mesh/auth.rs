//! The `NHSMESH` authorization header (NHS MESH API, "Authorization header"). Pure.
//!
//! `NHSMESH <mailbox>:<nonce>:<nonce count>:<yyyyMMddHHmm, UTC>:<hex of an HMAC-SHA256>`. The password goes into the
//! MAC and not onto the wire. The hub takes a header once, and within two hours of its own time.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use http::HeaderValue;
use waymark_core::time::Timestamp;
use zeroize::Zeroizing;

/// The scheme's name.
const SCHEME: &str = "NHSMESH";
/// Minutes are as fine as the header's time is.
const TIME: &str = "%Y%m%d%H%M";

/// What a mailbox proves itself by.
pub(super) struct Credentials<'a> {
    /// The mailbox.
    pub(super) mailbox: &'a str,
    /// Its password.
    pub(super) password: &'a [u8],
    /// The key that all mailboxes of one environment share.
    pub(super) shared_key: &'a [u8],
}

impl Credentials<'_> {
    /// The header of one request. `nonce` must be new, for then each header is another.
    pub(super) fn header(&self, nonce: &str, count: u32, at: Timestamp) -> Option<HeaderValue> {
        let at = jiff::Timestamp::from_millisecond(at.as_ms()).ok()?;
        let at = at.strftime(TIME).to_string();
        let open = format!("{}:{nonce}:{count}", self.mailbox);
        let parts = [open.as_bytes(), b":", self.password, b":", at.as_bytes()];
        let signed = Zeroizing::new(parts.concat());
        let tag = sign(&Key::new(HMAC_SHA256, self.shared_key), &signed);
        let text = format!("{SCHEME} {open}:{at}:{}", hex::encode(tag));
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_ms(1_588_597_500_000);

    fn credentials() -> Credentials<'static> {
        Credentials {
            mailbox: "X26ABC1",
            password: b"password",
            shared_key: b"TestKey",
        }
    }

    #[test]
    fn the_header_is_that_of_the_published_vector() {
        let header = credentials().header("bd0e2bd5-218e-41d0-83a9-73fdec414803", 0, AT);
        assert_eq!(
            header.unwrap().to_str().unwrap(),
            "NHSMESH X26ABC1:bd0e2bd5-218e-41d0-83a9-73fdec414803:0:202005041305:\
             1d7da1305d2c4f169b097f4e7fddbc8dfba024de2ea0fdee858b64536f2a90bc"
        );
    }

    #[test]
    fn every_part_is_in_the_mac_and_the_password_is_nowhere_else() {
        let of = |credentials: Credentials<'_>, nonce, count, at| {
            let header = credentials.header(nonce, count, at).unwrap();
            header.to_str().unwrap().to_owned()
        };
        let mac = |text: &str| text.rsplit(':').next().unwrap().to_owned();
        let first = of(credentials(), "n", 0, AT);
        assert!(!first.contains("password"), "{first}");
        let others = [
            of(credentials(), "m", 0, AT),
            of(credentials(), "n", 1, AT),
            of(credentials(), "n", 0, Timestamp::from_ms(1_588_597_560_000)),
            of(
                Credentials {
                    mailbox: "X26ABC2",
                    ..credentials()
                },
                "n",
                0,
                AT,
            ),
            of(
                Credentials {
                    password: b"other",
                    ..credentials()
                },
                "n",
                0,
                AT,
            ),
            of(
                Credentials {
                    shared_key: b"other",
                    ..credentials()
                },
                "n",
                0,
                AT,
            ),
        ];
        for other in others {
            assert_ne!(mac(&first), mac(&other));
        }
    }

    #[test]
    fn a_header_is_not_shown() {
        let header = credentials().header("n", 0, AT).unwrap();
        assert_eq!(format!("{header:?}"), "Sensitive");
    }
}
