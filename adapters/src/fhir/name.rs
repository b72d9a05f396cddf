//! Names on the wire: identifier and code systems, extensions, profiles, and UUIDs that follow from what they name.
//!
//! National systems are those of UK Core and of the NHS Booking and Referral Standard (BaRS Core 1.4). What no
//! national list names is ours, under `urn:waymark:`, and says so: a receiver that does not know it reads the words.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use waymark_core::id::WireId;
use waymark_core::identifier::OdsCode;

/// NHS number.
pub(super) const NHS_NUMBER: &str = "https://fhir.nhs.uk/Id/nhs-number";
/// ODS code of an organisation; compared without regard to case, because BaRS's own pages write `/id/` too.
pub(super) const ODS_CODE: &str = "https://fhir.nhs.uk/Id/ods-organization-code";
/// URN of a school.
pub(super) const SCHOOL_URN: &str = "https://fhir.hl7.org.uk/Id/urn-school-number";
/// A service of the Directory of Services: what BaRS addresses messages to.
pub const DOS_SERVICE: &str = "https://fhir.nhs.uk/Id/dos-service-id";
/// Whether an NHS number was traced.
pub(super) const VERIFICATION_EXTENSION: &str =
    "https://fhir.hl7.org.uk/StructureDefinition/Extension-UKCore-NHSNumberVerificationStatus";
/// Its codes.
pub(super) const VERIFICATION: &str =
    "https://fhir.hl7.org.uk/CodeSystem/UKCore-NHSNumberVerificationStatus";
/// Whether an interpreter is needed (FHIR R4, patient-interpreterRequired).
pub(super) const INTERPRETER: &str =
    "http://hl7.org/fhir/StructureDefinition/patient-interpreterRequired";

/// BaRS message events.
pub(super) const EVENTS: &str = "https://fhir.nhs.uk/CodeSystem/message-events-bars";
/// BaRS message reasons.
pub(super) const REASONS: &str = "https://fhir.nhs.uk/CodeSystem/message-reason-bars";
/// BaRS categories of a request.
pub(super) const CATEGORY: &str = "https://fhir.nhs.uk/CodeSystem/message-category-servicerequest";
/// BaRS categories of flags.
pub(super) const FLAG_CATEGORY: &str = "https://fhir.nhs.uk/CodeSystem/flag-categories-bars";
/// BaRS error codes; spelt as the standard spells it.
pub(super) const ERROR_CODES: &str = "https://fhir.nhs.uk/Codesystem/http-error-codes";
/// How BaRS's reasons for rejecting a referral end, whatever its base.
pub(super) const REJECTED_REASONS_END: &str = "/rejected-reasons-bars";
/// The profile of BaRS messages.
pub(super) const BUNDLE_PROFILE: &str = "https://fhir.nhs.uk/StructureDefinition/BARSBundleMessage";
/// The definition of a referral.
pub(super) const DEFINITION_REFERRAL: &str =
    "https://fhir.nhs.uk/MessageDefinition/bars-message-servicerequest-request-referral";
/// The definition of a cancelled request.
pub(super) const DEFINITION_CANCELLED: &str =
    "https://fhir.nhs.uk/MessageDefinition/bars-message-servicerequest-request-cancelled";
/// The definition of a response to a referral.
pub(super) const DEFINITION_RESPONSE: &str =
    "https://fhir.nhs.uk/MessageDefinition/bars-message-servicerequest-response-referral";

/// Use cases of ours: no BaRS use case covers SEND or community paediatrics, so this one is agreed locally.
pub(super) const USE_CASE: &str = "urn:waymark:codesystem:usecase";
/// The code of that use case unless an endpoint names another.
pub(super) const USE_CASE_CODE: &str = "send-referral";
/// What is asked for.
pub(super) const PATHWAY: &str = "urn:waymark:codesystem:pathway";
/// Why a child is referred.
pub(super) const REASON: &str = "urn:waymark:codesystem:reason";
/// Types of need of the school census.
pub(super) const NEED: &str = "urn:waymark:codesystem:sen-need";
/// What our observations observe.
pub(super) const OBSERVED: &str = "urn:waymark:codesystem:observation";
/// Values of our closed lists.
pub(super) const VALUE: &str = "urn:waymark:codesystem:value";
/// States of a referral.
pub(super) const STATE: &str = "urn:waymark:codesystem:state";

/// The exchange that a referral came by: `X-Correlation-Id` of the message that opened it.
pub(super) const EXCHANGE_ID: &str = "urn:waymark:id:exchange";
/// A delivery's wire id: what a server that is not BaRS recognises a repeat by.
pub(super) const DELIVERY_ID: &str = "urn:waymark:id:delivery";
/// The referral's short reference.
pub(super) const REFERENCE: &str = "urn:waymark:id:reference";
/// The referral's id.
pub(super) const REFERRAL_ID: &str = "urn:waymark:id:referral";
/// A service's id in the area's directory.
pub(super) const SERVICE_ID: &str = "urn:waymark:id:service";
/// A document's id.
pub(super) const DOCUMENT_ID: &str = "urn:waymark:id:document";
/// Unique pupil number; no national system names it.
pub(super) const UPN: &str = "urn:waymark:id:upn";
/// Unique learner number.
pub(super) const ULN: &str = "urn:waymark:id:uln";
/// What stands before a namespace that is no URI.
const NAMESPACE: &str = "urn:waymark:namespace:";

/// An extension of ours.
pub(super) fn extension(name: &str) -> String {
    format!("urn:waymark:extension:{name}")
}

/// A namespace as an identifier's system, which must be a URI; none for an empty one.
pub(super) fn system_of(namespace: &str) -> Option<String> {
    match namespace {
        "" => None,
        uri if uri.contains(':') => Some(uri.to_owned()),
        word => Some(format!("{NAMESPACE}{word}")),
    }
}

/// The namespace of an identifier's system.
pub(super) fn namespace_of(system: Option<&str>) -> String {
    let system = system.unwrap_or_default();
    system.strip_prefix(NAMESPACE).unwrap_or(system).to_owned()
}

/// Whether a system is the one meant; NHS systems are written in more than one case, and with `http` in old samples.
pub(super) fn is_system(found: Option<&str>, meant: &str) -> bool {
    let bare = |text: &str| {
        let rest = text
            .strip_prefix("https://")
            .or(text.strip_prefix("http://"));
        rest.unwrap_or(text).to_ascii_lowercase()
    };
    found.is_some_and(|found| bare(found) == bare(meant))
}

/// The ODS alias of a school: `EE` and its URN.
pub(super) fn school_of(agency: &str) -> Option<&str> {
    agency
        .strip_prefix("EE")
        .filter(|urn| urn.len() == 6 && urn.bytes().all(|b| b.is_ascii_digit()))
}

/// The system of an agency's id: its ODS code where it can be one.
pub(super) fn agency_system(agency: &str) -> &'static str {
    if OdsCode::parse(agency).is_ok() {
        ODS_CODE
    } else {
        "urn:waymark:id:agency"
    }
}

/// The namespace of our UUIDs (RFC 9562, 5.5).
const NAMESPACE_ID: [u8; 16] = [
    0x6b, 0x0d, 0x5e, 0x2a, 0x41, 0x7c, 0x4f, 0x0b, 0x9a, 0x53, 0x77, 0x61, 0x79, 0x6d, 0x61, 0x72,
];

/// The UUID, version 5, of a name: the same name gives the same UUID on every attempt and every machine.
pub(super) fn uuid_of(parts: &[&str]) -> uuid::Uuid {
    let mut name = NAMESPACE_ID.to_vec();
    name.extend_from_slice(parts.join("/").as_bytes());
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &name);
    let mut bytes = [0u8; 16];
    for (slot, byte) in bytes.iter_mut().zip(digest.as_ref()) {
        *slot = *byte;
    }
    uuid::Builder::from_sha1_bytes(bytes).into_uuid()
}

/// Twenty-six letters and ten digits, and one for none.
const SYMBOLS: u128 = 37;

/// The id of a delivery's bundle: a UUID, version 8 (RFC 9562, 5.8), that holds the wire id itself, because BaRS answers
/// a message by this id and need not say more (`MessageHeader.response.identifier`).
pub(super) fn bundle_id(wire: &WireId) -> uuid::Uuid {
    // At most 20 of 36 signs: 105 of the 122 bits that the version leaves.
    let number = wire.as_str().bytes().fold(0, |number: u128, sign| {
        let digit = match sign {
            b'0'..=b'9' => sign - b'0',
            _ => sign - b'A' + 10,
        };
        number * SYMBOLS + u128::from(digit) + 1
    });
    let (high, middle, low) = (
        (number >> 74) << 80,
        ((number >> 62) & 0xfff) << 64,
        number & LOW,
    );
    uuid::Builder::from_custom_bytes((high | middle | low).to_be_bytes()).into_uuid()
}

/// The last 62 bits of a UUID, which its variant leaves.
const LOW: u128 = (1 << 62) - 1;

/// The delivery whose bundle has that id; none for an id that we did not make.
pub(super) fn delivery_of(bundle: &str) -> Option<WireId> {
    let id = uuid::Uuid::try_parse(bundle).ok()?;
    let bits = id.as_u128();
    let mut number = ((bits >> 80) << 74) | (((bits >> 64) & 0xfff) << 62) | (bits & LOW);
    let mut signs = Vec::with_capacity(WireId::LENGTH_MAX);
    while number > 0 && signs.len() < WireId::LENGTH_MAX {
        let digit = u8::try_from(number % SYMBOLS).ok()?.checked_sub(1)?;
        signs.push(if digit < 10 {
            b'0' + digit
        } else {
            b'A' + digit - 10
        });
        number /= SYMBOLS;
    }
    signs.reverse();
    let wire: WireId = String::from_utf8(signs).ok()?.parse().ok()?;
    (bundle_id(&wire) == id).then_some(wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_bundle_holds_the_wire_id_and_no_other_id_does() {
        for wire in [
            "0",
            "Z",
            "00",
            "WM7F3K",
            "ZZZZZZZZZZZZZZZZZZZZ",
            "00000000000000000000",
        ] {
            let wire: WireId = wire.parse().unwrap();
            let id = bundle_id(&wire);
            assert_eq!(
                (id.get_version_num(), id.get_variant()),
                (8, uuid::Variant::RFC4122)
            );
            assert_eq!(delivery_of(&id.to_string()), Some(wire));
        }
        let foreign = [
            "86e3371d-1c15-4862-9552-d9560f8292ba".to_owned(),
            uuid_of(&["WM1", "bundle"]).to_string(),
            uuid::Builder::from_custom_bytes([0xff; 16])
                .into_uuid()
                .to_string(),
            uuid::Builder::from_custom_bytes([0; 16])
                .into_uuid()
                .to_string(),
            "WM1".to_owned(),
        ];
        for id in foreign {
            assert_eq!(delivery_of(&id), None, "{id}");
        }
    }

    #[test]
    fn nhs_systems_are_compared_without_case_and_scheme() {
        for written in [
            "https://fhir.nhs.uk/id/ods-organization-code",
            "http://fhir.nhs.uk/Id/ods-organization-code",
            ODS_CODE,
        ] {
            assert!(is_system(Some(written), ODS_CODE), "{written}");
        }
        assert!(!is_system(
            Some("https://fhir.nhs.uk/Id/nhs-number"),
            ODS_CODE
        ));
        assert!(!is_system(None, ODS_CODE));
    }

    #[test]
    fn a_namespace_survives_being_a_system() {
        for namespace in ["", "EPIC", "https://school.example/mis", "urn:oid:1.2.3"] {
            assert_eq!(namespace_of(system_of(namespace).as_deref()), namespace);
        }
    }

    #[test]
    fn a_uuid_follows_from_its_name_alone() {
        let one = uuid_of(&["WM1", "bundle"]);
        assert_eq!(one, uuid_of(&["WM1", "bundle"]));
        assert_ne!(one, uuid_of(&["WM1", "request"]));
        assert_ne!(one, uuid_of(&["WM2", "bundle"]));
        assert_eq!(one.get_version_num(), 5);
    }
}
