//! A small area as directory files: a school, a hospital by MLLP, a therapy service by webhook, a mental health
//! service by gRPC, a specialist team and a council by mailbox. The pathway decides where a referral goes.

use waymark_core::directory::SourceFile;

/// What differs from test to test.
#[derive(Clone, Debug)]
pub struct Area {
    /// Where the hospital's MLLP receiver is; nobody listens on port 1.
    pub mllp: u16,
    /// Where the therapy service takes webhooks.
    pub webhook: u16,
    /// Where the mental health service takes calls.
    pub grpc: u16,
    /// The URI that the mental health service's certificate must prove.
    pub grpc_peer: String,
    /// Lines of every pushed endpoint's `retry` and limits.
    pub pushing: String,
    /// Further tables.
    pub more: String,
}

impl Default for Area {
    fn default() -> Self {
        Self {
            mllp: 1,
            webhook: 1,
            grpc: 1,
            grpc_peer: "waymark:test:agency:CAM01".to_owned(),
            pushing: "retry = { first = \"20ms\", cap = \"60ms\", soft_rejects_max = 3, panics_max = 3 }\n\
                      attempt_timeout = \"5s\"\ndeadline = \"1h\"\n"
                .to_owned(),
            more: String::new(),
        }
    }
}

const AGENCIES: &str = r#"
[area]
id = "southmere"
name = "Southmere (test area)"
environment = "test"
triage = "send-triage"

[[agency]]
id = "EE123456"
name = "Hillside Primary School"
sector = "education"

[[identity]]
name = "waymark:test:agency:EE123456"
agency = "EE123456"

[[agency]]
id = "R1L"
name = "Southmere Hospital"
sector = "health"

[[identity]]
name = "waymark:test:agency:R1L"
agency = "R1L"

[[identity]]
name = "mllp:r1l"
agency = "R1L"
hl7_senders = ["EPR|R1L"]

[[agency]]
id = "THER1"
name = "Southmere Therapies"
sector = "health"

[[identity]]
name = "waymark:test:agency:THER1"
agency = "THER1"

[[identity]]
name = "webhook:therapy-webhook"
agency = "THER1"

[[agency]]
id = "CAM01"
name = "Southmere Mental Health"
sector = "health"

[[identity]]
name = "waymark:test:agency:CAM01"
agency = "CAM01"

[[agency]]
id = "SPEC1"
name = "Southmere Specialist Teaching"
sector = "education"

[[identity]]
name = "waymark:test:agency:SPEC1"
agency = "SPEC1"

[[agency]]
id = "SC882"
name = "Southmere Social Care"
sector = "social_care"

[[identity]]
name = "waymark:test:agency:SC882"
agency = "SC882"

[[agency]]
id = "LA882"
name = "Southmere Council"
sector = "education"

[[identity]]
name = "waymark:test:agency:LA882"
agency = "LA882"

[[identity]]
name = "waymark:test:admin:LA882"
agency = "LA882"
roles = ["admin"]

[[identity]]
name = "waymark:test:auditor:LA882"
agency = "LA882"
roles = ["auditor"]

[[identity]]
name = "waymark:test:reader:LA882"
agency = "LA882"
roles = ["body_reader"]

[[identity]]
name = "waymark:test:monitor:LA882"
agency = "LA882"
roles = ["monitor"]
"#;

const SERVICES: &str = r#"
[[service]]
id = "send-triage"
name = "SEND triage"
agency = "LA882"
pathways = []
endpoint = "send-mailbox"
owner_role = "SEND triage coordinator"

[[endpoint]]
id = "send-mailbox"
agency = "LA882"
adapter = "mailbox"

[[service]]
id = "paediatrics"
name = "Community paediatrics"
agency = "R1L"
pathways = ["adhd-assessment", "ehc-advice"]
endpoint = "r1l-mllp"
owner_role = "Pathway coordinator"

[[service]]
id = "therapy"
name = "Speech and language therapy"
agency = "THER1"
pathways = ["speech-language"]
endpoint = "therapy-webhook"
owner_role = "Therapy intake"

[[service]]
id = "mental-health"
name = "Child mental health"
agency = "CAM01"
pathways = ["mental-health"]
endpoint = "cam01-grpc"
owner_role = "Single point of access"

[[service]]
id = "specialist-teaching"
name = "Specialist teaching"
agency = "SPEC1"
pathways = ["specialist-teaching", "ehc-advice"]
endpoint = "spec1-mailbox"
owner_role = "Team lead"

[[endpoint]]
id = "spec1-mailbox"
agency = "SPEC1"
adapter = "mailbox"

[[service]]
id = "social-care"
name = "Social care advice"
agency = "SC882"
pathways = ["ehc-advice"]
endpoint = "sc882-mailbox"
owner_role = "Designated social care officer"

[[endpoint]]
id = "sc882-mailbox"
agency = "SC882"
adapter = "mailbox"

[[rule]]
id = "adhd-5-to-17"
pathway = "adhd-assessment"
age = { min = 5, max = 17 }
to = ["paediatrics"]

[[rule]]
id = "speech-language"
pathway = "speech-language"
to = ["therapy"]

[[rule]]
id = "mental-health"
pathway = "mental-health"
to = ["mental-health"]

[[rule]]
id = "specialist-teaching"
pathway = "specialist-teaching"
to = ["specialist-teaching"]

[[rule]]
id = "ehc-advice"
pathway = "ehc-advice"
to = ["paediatrics", "specialist-teaching", "social-care"]
"#;

/// A community service that is reached by MESH, and is told there of what it refers itself.
const COMMUNITY: &str = r#"
[[agency]]
id = "COMM1"
name = "Southmere Community Services"
sector = "health"
return_endpoint = "comm1-mesh"

[[identity]]
name = "mesh:X26ABC2"
agency = "COMM1"

[[service]]
id = "community"
name = "Community autism team"
agency = "COMM1"
pathways = ["autism-assessment"]
endpoint = "comm1-mesh"
owner_role = "Referral office"

[[rule]]
id = "autism-assessment"
pathway = "autism-assessment"
to = ["community"]

[[endpoint]]
id = "comm1-mesh"
agency = "COMM1"
adapter = "mesh"
releases_at = "transport_ack"
"#;

impl Area {
    /// An area with a community service behind a MESH hub: `limits` are lines of its endpoint, `settings` of its
    /// settings beside mailboxes and secrets.
    pub fn mesh(url: &str, limits: &str, settings: &str) -> Self {
        Self::with(format!(
            "{COMMUNITY}{limits}\n[endpoint.settings]\nurl = \"{url}\"\nmailbox = \"X26ABC1\"\nto = \"X26ABC2\"\n\
             password = \"secret:mesh-password\"\nshared_key = \"secret:mesh-key\"\npoll_seconds = 1\n{settings}\n"
        ))
    }

    /// An area whose hospital is somewhere.
    pub fn hospital(port: u16) -> Self {
        Self {
            mllp: port,
            ..Self::default()
        }
    }

    /// An area with further tables.
    pub fn with(more: impl Into<String>) -> Self {
        Self {
            more: more.into(),
            ..Self::default()
        }
    }

    /// The directory's files.
    pub fn files(&self) -> Vec<SourceFile> {
        let pushing = &self.pushing;
        let endpoints = format!(
            r#"
[[endpoint]]
id = "r1l-mllp"
agency = "R1L"
adapter = "hl7v2"
{pushing}
[endpoint.settings]
host = "127.0.0.1"
port = {mllp}
transport = "plain"
interface = "127.0.0.1"
version = "2.5"
sending_app = "WAYMARK"
sending_facility = "SOUTHMERE"
receiving_app = "EPR"
receiving_facility = "R1L"
ack_mode = "original"

[[endpoint]]
id = "therapy-webhook"
agency = "THER1"
adapter = "webhook"
{pushing}
[endpoint.settings]
url = "https://127.0.0.1:{webhook}/waymark"
signing_secrets = ["secret:therapy-webhook"]
callback_secrets = ["secret:therapy-callback"]
private_network = true

[[endpoint]]
id = "cam01-grpc"
agency = "CAM01"
adapter = "grpc"
{pushing}
[endpoint.settings]
url = "https://127.0.0.1:{grpc}"
peer_identity = "{peer}"
private_network = true
"#,
            mllp = self.mllp,
            webhook = self.webhook,
            grpc = self.grpc,
            peer = self.grpc_peer,
        );
        let file = |path: &str, text: String| SourceFile {
            path: path.to_owned(),
            text,
        };
        let mut files = vec![
            file("agencies.toml", AGENCIES.to_owned()),
            file("endpoints.toml", endpoints),
            file("services.toml", SERVICES.to_owned()),
        ];
        if !self.more.is_empty() {
            files.push(file("zz-more.toml", self.more.clone()));
        }
        files
    }
}
