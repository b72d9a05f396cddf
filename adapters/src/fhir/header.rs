//! The headers of `$process-message`: which there are, and what is in them (BaRS Core 1.4, API headers).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::name;
use super::wire::MEDIA_TYPE;
use super::wire::node::Node;

/// Which service a message is for: base64 of `{"value", "system"}`.
pub const TARGET: &str = "nhsd-target-identifier";
/// One message, the same on every attempt.
pub const REQUEST_ID: &str = "x-request-id";
/// One case, the same for every message of it.
pub const CORRELATION_ID: &str = "x-correlation-id";
/// The organisation that the end user belongs to: base64 of a FHIR Organization.
pub const ORGANISATION: &str = "nhsd-end-user-organisation";
/// The software that asks: base64 of a FHIR Device.
pub const SOFTWARE: &str = "nhsd-requesting-software";
/// What the message is for; receivers ignore it.
pub const USE_CONTEXT: &str = "use-context";
/// The most characters of a header that is base64.
pub const BASE64_CHARS_MAX: usize = 8 * 1024;

/// What of a rendered message goes into headers.
pub(super) struct Outgoing {
    /// The referral's id: the case.
    pub(super) correlation: String,
    /// The message's own.
    pub(super) request: String,
    pub(super) target: (String, String),
    pub(super) organisation: String,
    pub(super) use_context: String,
}

impl Outgoing {
    /// Reads them out of the bytes that are sent; none where these are not a message of ours.
    pub(super) fn of(bundle: &Value, wire_id: &str) -> Option<Self> {
        let message = super::wire::message::Message::read(bundle).ok()?;
        let request = message.request().ok()?;
        let identifiers = request.list("identifier").ok()?;
        let text = |node: &Node<'_>, element: &str| {
            node.text(element).ok().flatten().map(ToOwned::to_owned)
        };
        let named = |system: &str| {
            let mut all = identifiers.iter();
            all.find(|id| text(id, "system").as_deref() == Some(system))
        };
        // A status is of the exchange that its referral came by, else it names the referral by the id that we gave.
        let correlation = match named(name::EXCHANGE_ID).or_else(|| named(name::REFERRAL_ID)) {
            Some(id) => text(id, "value")?,
            None => text(request, "id")?,
        };
        let destination = message.destinations().ok()?.into_iter().next()?;
        let (system, value) = destination.rsplit_once('|')?;
        let code = |element: &str| -> Option<String> {
            let node = message.header.object(element).ok()??;
            match node.list("coding").ok()?.first() {
                Some(first) => text(first, "code"),
                None => text(&node, "code"),
            }
        };
        let (event, reason) = (code("eventCoding")?, code("reason")?);
        let use_case = request.list("category").ok()?.first().and_then(|category| {
            let concept = super::wire::node::Concept::read(category).ok()?;
            concept.code_of(name::USE_CASE).map(ToOwned::to_owned)
        });
        let use_case = use_case.unwrap_or_else(|| name::USE_CASE_CODE.to_owned());
        Some(Self {
            correlation,
            request: name::uuid_of(&[wire_id, "request-id"]).to_string(),
            target: (system.to_owned(), value.to_owned()),
            organisation: message.sender().ok()??.to_owned(),
            use_context: format!("{use_case}|referral|{event}|{reason}"),
        })
    }

    /// The header that says whom it is for.
    pub(super) fn target_of(system: &str, value: &str) -> String {
        encoded(&json!({ "value": value, "system": system }))
    }

    /// The headers.
    pub(super) fn headers(&self, version: &str) -> Option<HeaderMap> {
        let organisation = json!({
            "resourceType": "Organization",
            "identifier": [{ "system": name::agency_system(&self.organisation), "value": self.organisation }],
        });
        let software = json!({
            "resourceType": "Device",
            "deviceName": [{ "name": "Waymark", "type": "model-name" }],
            "version": [{ "value": env!("CARGO_PKG_VERSION") }],
        });
        let mut headers = HeaderMap::new();
        let written = [
            (TARGET, Self::target_of(&self.target.0, &self.target.1)),
            (REQUEST_ID, self.request.clone()),
            (CORRELATION_ID, self.correlation.clone()),
            (ORGANISATION, encoded(&organisation)),
            (SOFTWARE, encoded(&software)),
            (USE_CONTEXT, self.use_context.clone()),
            (ACCEPT.as_str(), format!("{MEDIA_TYPE}; version={version}")),
        ];
        for (name, value) in written {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.insert(name, HeaderValue::from_str(&value).ok()?);
        }
        Some(headers)
    }
}

fn encoded(value: &Value) -> String {
    STANDARD.encode(value.to_string())
}

/// Whether an answer echoes both ids of the message that it answers.
pub(super) fn echoes(answer: &HeaderMap, sent: &Outgoing) -> bool {
    let same = |name: &str, id: &str| {
        let found = answer.get(name).and_then(|value| value.to_str().ok());
        found.is_some_and(|found| found.eq_ignore_ascii_case(id))
    };
    same(REQUEST_ID, &sent.request) && same(CORRELATION_ID, &sent.correlation)
}

/// What the headers of a message that came say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) request: String,
    pub(super) correlation: String,
    /// `system|value`.
    pub(super) target: String,
}

/// What is wrong with a header: its name, the rule, and what to answer.
pub(super) struct HeaderFault {
    pub(super) header: &'static str,
    pub(super) rule: &'static str,
    pub(super) status: StatusCode,
    pub(super) missing: bool,
}

/// Reads the required headers in the standard's order.
pub(super) fn read(headers: &HeaderMap) -> Result<Incoming, HeaderFault> {
    let request = uuid(headers, REQUEST_ID)?;
    let correlation = uuid(headers, CORRELATION_ID)?;
    let target = decoded(headers, TARGET)?;
    let part = |key: &str| {
        target
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let (Some(system), Some(value)) = (part("system"), part("value")) else {
        return Err(bad(TARGET, "is base64 of {\"value\", \"system\"}"));
    };
    let target = format!("{system}|{value}");
    for (header, kind) in [(ORGANISATION, "Organization"), (SOFTWARE, "Device")] {
        let resource = decoded(headers, header)?;
        if resource.get("resourceType").and_then(Value::as_str) != Some(kind) {
            return Err(bad(
                header,
                "is base64 of a FHIR Organization or Device, as the header's name says",
            ));
        }
    }
    acceptable(headers)?;
    Ok(Incoming {
        request,
        correlation,
        target,
    })
}

/// Whether the caller takes what we answer with.
pub(super) fn acceptable(headers: &HeaderMap) -> Result<(), HeaderFault> {
    let accept = headers
        .get(ACCEPT)
        .map(|value| value.to_str().unwrap_or_default());
    let taken = accept.is_none_or(|accept| {
        accept.split(',').any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let known = [MEDIA_TYPE, "application/json", "application/*", "*/*"].contains(&media);
            let version = parts.find_map(|part| part.strip_prefix("version="));
            known && version.is_none_or(|version| version.trim_matches('"').starts_with("1."))
        })
    });
    if taken {
        return Ok(());
    }
    Err(HeaderFault {
        header: "accept",
        rule: "takes application/fhir+json, version 1.x",
        status: StatusCode::NOT_ACCEPTABLE,
        missing: false,
    })
}

const fn bad(header: &'static str, rule: &'static str) -> HeaderFault {
    HeaderFault {
        header,
        rule,
        status: StatusCode::BAD_REQUEST,
        missing: false,
    }
}

fn text<'h>(headers: &'h HeaderMap, header: &'static str) -> Result<&'h str, HeaderFault> {
    let mut all = headers.get_all(header).iter();
    match (all.next(), all.next()) {
        (None, _) => Err(HeaderFault {
            missing: true,
            ..bad(header, "is required")
        }),
        (Some(_), Some(_)) => Err(bad(header, "stands once")),
        (Some(value), None) => value.to_str().map_err(|_| bad(header, "is ASCII")),
    }
}

fn uuid(headers: &HeaderMap, header: &'static str) -> Result<String, HeaderFault> {
    let written = text(headers, header)?;
    let parsed = written.parse::<uuid::Uuid>();
    parsed
        .map(|id| id.to_string())
        .map_err(|_| bad(header, "is a UUID"))
}

fn decoded(headers: &HeaderMap, header: &'static str) -> Result<Value, HeaderFault> {
    let written = text(headers, header)?;
    if written.len() > BASE64_CHARS_MAX {
        return Err(bad(header, "is at most 8192 characters"));
    }
    let bytes = STANDARD
        .decode(written)
        .map_err(|_| bad(header, "is base64"))?;
    serde_json::from_slice(&bytes).map_err(|_| bad(header, "is base64 of JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> HeaderMap {
        let outgoing = Outgoing {
            correlation: "0197f3c2-7d11-7a10-9c1e-2f6b0c9f1a01".to_owned(),
            request: "0197f3c2-7d11-7a10-9c1e-2f6b0c9f1a02".to_owned(),
            target: (name::DOS_SERVICE.to_owned(), "2000011147".to_owned()),
            organisation: "R1L".to_owned(),
            use_context: "send-referral|referral|servicerequest-request|new".to_owned(),
        };
        outgoing.headers("1.4.0").unwrap()
    }

    #[test]
    fn what_we_write_is_read_back() {
        let read = read(&good()).ok().unwrap();
        assert_eq!(
            read.target,
            "https://fhir.nhs.uk/Id/dos-service-id|2000011147"
        );
        assert_eq!(read.correlation, "0197f3c2-7d11-7a10-9c1e-2f6b0c9f1a01");
    }

    #[test]
    fn the_published_vector_is_read_by_its_fields() {
        let mut headers = good();
        let vector = "eyJ2YWx1ZSI6ICIyMDAwMDExMTQ3IiwgInN5c3RlbSI6ICJodHRwczovL2ZoaXIubmhzLnVrL0lkL2Rvcy1zZXJ2aWNlLWlkIn0=";
        headers.insert(TARGET, HeaderValue::from_static(vector));
        let read = read(&headers).ok().unwrap();
        assert_eq!(
            read.target,
            "https://fhir.nhs.uk/Id/dos-service-id|2000011147"
        );
    }

    #[test]
    fn each_header_that_is_missing_or_wrong_is_named() {
        for header in [TARGET, REQUEST_ID, CORRELATION_ID, ORGANISATION, SOFTWARE] {
            let mut headers = good();
            headers.remove(header);
            let fault = read(&headers).err().unwrap();
            assert_eq!((fault.header, fault.missing), (header, true));
            headers.insert(header, HeaderValue::from_static("!!"));
            assert_eq!(read(&headers).err().unwrap().header, header);
            let long = "A".repeat(BASE64_CHARS_MAX + 4);
            headers.insert(header, HeaderValue::from_str(&long).unwrap());
            assert_eq!(read(&headers).err().unwrap().header, header);
        }
    }

    #[test]
    fn another_format_or_major_version_is_not_acceptable() {
        for (accept, taken) in [
            ("application/fhir+json; version=1.4.0", true),
            ("*/*", true),
            ("text/html, application/fhir+json", true),
            ("application/fhir+xml", false),
            ("application/fhir+json; version=2.0.0", false),
        ] {
            let mut headers = good();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(read(&headers).is_ok(), taken, "{accept}");
        }
    }
}
