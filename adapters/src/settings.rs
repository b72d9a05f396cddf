//! Reading an endpoint's settings: typed, unknown keys refused, secrets by name alone.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;
use waymark_core::delivery::{Outcome, ParkReason, Why};
use waymark_core::directory::Endpoint;
use waymark_core::error::Violation;
use waymark_core::port::{Outbound, RenderError};
use zeroize::Zeroizing;

use crate::context::{DEFAULT_PROFILE, EgressPolicy, Peers, Secrets};
use crate::egress::Reach;
use crate::tls::Profiles;

/// The most secrets of one purpose: the one in use, and the next or the last during rotation.
pub(crate) const SECRETS_MAX: usize = 2;

/// What a setting that names a secret begins with.
const SECRET_PREFIX: &str = "secret:";

/// Reads settings into their type.
///
/// # Errors
/// The setting that is unknown, missing or of the wrong type.
pub(crate) fn read<T: DeserializeOwned>(endpoint: &Endpoint) -> Result<T, Vec<Violation>> {
    endpoint
        .settings
        .clone()
        .try_into()
        .map_err(|error| vec![named(&error.to_string())])
}

/// Finds the key in the parser's words: its own place if it gives one, else the first name it quotes.
fn named(words: &str) -> Violation {
    let quoted = |text: &str| text.split('`').nth(1).map(ToOwned::to_owned);
    let place = words
        .rsplit_once("in `")
        .and_then(|(_, rest)| quoted(&format!("`{rest}")));
    let quotes_a_field = words.contains("field `");
    let field = place.or_else(|| quoted(words).filter(|_| quotes_a_field));
    let why: Vec<&str> = words
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let path = field.map_or_else(|| "settings".to_owned(), |key| format!("settings.{key}"));
    Violation::new(path, why.join(" "))
}

/// The name of a secret, written `secret:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct SecretName(String);

impl TryFrom<String> for SecretName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = text.strip_prefix(SECRET_PREFIX).unwrap_or_default();
        let good = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err("names a secret as `secret:NAME`")
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SecretName {
    /// The secret itself.
    pub(crate) fn resolve(&self, secrets: &dyn Secrets) -> Option<Zeroizing<Vec<u8>>> {
        secrets.secret(&self.0)
    }
}

/// The end of an attempt whose endpoint's settings are wrong.
pub(crate) fn parked(adapter: &str, faults: &[Violation]) -> Outcome {
    Outcome::Park {
        reason: ParkReason::NoEndpoint,
        why: why(adapter, faults),
    }
}

/// Why nothing can be done by an endpoint whose settings are wrong.
pub(crate) fn why(adapter: &str, faults: &[Violation]) -> Why {
    let text = faults.first().map(ToString::to_string).unwrap_or_default();
    Why::new(format!("{adapter}.settings"), text)
}

/// Why nothing can be rendered for an endpoint whose settings are wrong.
pub(crate) fn unusable(faults: Vec<Violation>) -> RenderError {
    let first = faults.into_iter().next();
    RenderError::Settings(first.unwrap_or_else(|| Violation::new("settings", "are wrong")))
}

/// That an endpoint still is of the agency that a message was bound to, and the identity it names as well (invariant 7).
///
/// # Errors
/// The end of the attempt, before anything was written.
pub(crate) fn bound(
    adapter: &str,
    message: &Outbound<'_>,
    identity: Option<(&str, &dyn Peers)>,
) -> Result<(), Outcome> {
    let same = identity
        .is_none_or(|(name, peers)| peers.agency_of(name).as_ref() == Some(message.recipient));
    if message.endpoint.agency == *message.recipient && same {
        return Ok(());
    }
    let text = "the endpoint's identity is not, or no longer, that of the bound recipient";
    Err(Outcome::Park {
        reason: ParkReason::WrongRecipient,
        why: Why::new(format!("{adapter}.wrong_recipient"), text),
    })
}

/// The TLS profile of an endpoint that names none.
pub(crate) fn default_profile() -> String {
    DEFAULT_PROFILE.to_owned()
}

/// Notes a peer identity that can be no SAN URI.
pub(crate) fn check_identity(identity: &str, faults: &mut Vec<Violation>) {
    if Url::parse(identity).is_err() || identity.chars().any(char::is_whitespace) {
        let why = "is the SAN URI of the agency's certificate, such as spiffe://area/agency/R1L";
        faults.push(Violation::new("settings.peer_identity", why));
    }
}

/// What is wrong with the name of a TLS profile.
pub(crate) fn profile_faults(name: &str, profiles: &Profiles) -> Vec<Violation> {
    if profiles.contains_key(name) {
        return Vec::new();
    }
    vec![Violation::new(
        "settings.tls_profile",
        "names no TLS profile of this process",
    )]
}

/// How an endpoint is reached over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) url: Url,
    pub(crate) reach: Reach,
}

/// Reads a URL that the egress guard lets pass.
pub(crate) fn address(
    url: &str,
    plain: bool,
    private_network: bool,
    policy: EgressPolicy,
    faults: &mut Vec<Violation>,
) -> Option<Address> {
    let mut fault = |key: &str, why: &str| {
        faults.push(Violation::new(format!("settings.{key}"), why));
        None
    };
    let reach = match Reach::of(plain, private_network, policy) {
        Ok(reach) => reach,
        Err(flag) => return fault(flag, "is not allowed in this deployment"),
    };
    let Ok(url) = Url::parse(url) else {
        return fault("url", "is not a URL");
    };
    let scheme = if plain { "http" } else { "https" };
    if url.scheme() != scheme {
        return fault(
            "url",
            "is https, or http with plain = true on this machine alone",
        );
    }
    if url.host_str().is_none_or(str::is_empty) || url.port_or_known_default().is_none() {
        return fault("url", "needs a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return fault("url", "holds a user name or password: leave it out");
    }
    if url.fragment().is_some() {
        return fault("url", "has a fragment: leave it out");
    }
    if !reach.permits_host(&url) {
        return fault(
            "url",
            "is an address that this endpoint may not reach: see private_network",
        );
    }
    Some(Address { url, reach })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are looked at")]
    struct Sample {
        url: String,
        #[serde(default)]
        names: Vec<SecretName>,
        #[serde(default)]
        flag: bool,
    }

    fn refused(settings: &str) -> String {
        let mut endpoint = crate::contract::sample::endpoint();
        endpoint.settings = settings.parse().unwrap();
        let faults = read::<Sample>(&endpoint).unwrap_err();
        faults.first().unwrap().field.clone()
    }

    #[test]
    fn the_wrong_setting_is_named() {
        assert_eq!(refused("url = \"x\"\nurll = \"y\""), "settings.urll");
        assert_eq!(refused(""), "settings.url");
        assert_eq!(refused("url = 5"), "settings.url");
        assert_eq!(refused("url = \"x\"\nflag = \"yes\""), "settings.flag");
        assert_eq!(
            refused("url = \"x\"\nnames = [\"plain text\"]"),
            "settings.names"
        );
        assert_eq!(
            refused("url = \"x\"\nnames = [\"secret:\"]"),
            "settings.names"
        );
    }

    #[test]
    fn a_url_is_https_without_user_or_fragment_and_leads_outward() {
        let fault = |url: &str, plain, private| {
            let mut faults = Vec::new();
            let address = address(url, plain, private, EgressPolicy::AsFlagged, &mut faults);
            assert_eq!(address.is_some(), faults.is_empty());
            faults.pop().map(|f| f.field)
        };
        assert_eq!(fault("https://agency.example/in", false, false), None);
        assert_eq!(fault("https://10.1.2.3/in", false, true), None);
        assert_eq!(fault("http://127.0.0.1:8080/", true, false), None);
        for bad in [
            "nonsense",
            "http://agency.example/",
            "ftp://agency.example/",
            "https://10.1.2.3/",
            "https://u:p@agency.example/",
            "https://agency.example/#x",
            "https://169.254.169.254/",
        ] {
            assert_eq!(
                fault(bad, false, false).as_deref(),
                Some("settings.url"),
                "{bad}"
            );
        }
        assert_eq!(
            fault("http://agency.example/", true, false),
            None,
            "judged when it is resolved"
        );
        assert_eq!(
            fault("http://10.0.0.1/", true, true).as_deref(),
            Some("settings.url")
        );
    }
}
