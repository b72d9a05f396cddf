//! What holds where the file says nothing.

use std::time::Duration;

use waymark_core::referral::{ConsentScope, LawfulBasis};

use super::{
    Database, DatabaseUrl, Delivery, DirectorySettings, Keys, Lasting, Limits, Listen, Log,
    LogFormat, Outbound, SecretSettings, Telemetry, Tls,
};

pub(super) const fn yes() -> bool {
    true
}

pub(super) const fn drain() -> Lasting {
    Lasting::new(Duration::from_secs(25))
}

pub(super) const fn lawful_basis() -> LawfulBasis {
    LawfulBasis::PublicTaskCare
}

pub(super) fn consent_scope() -> Vec<ConsentScope> {
    vec![ConsentScope::Referral]
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::new("sqlite://waymark.db"),
            url_file: None,
            migrate: true,
            free_disk_min_mib: 512,
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            keyring: "keys/keyring".into(),
            log: "keys/log.key".into(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let metrics = Some(([127, 0, 0, 1], 9464).into());
        Self {
            grpc: ([127, 0, 0, 1], 8443).into(),
            metrics,
            webhook: None,
            mllp: Vec::new(),
            fhir: None,
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            cert: "tls/server.pem".into(),
            key: "tls/server.key".into(),
            client_ca: "tls/client-ca.pem".into(),
            crl: None,
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            cert: "tls/outbound.pem".into(),
            key: "tls/outbound.key".into(),
            roots: "tls/outbound-roots.pem".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: Lasting::new(Duration::from_mins(1)),
            in_flight: 1_024,
            streams: 1_024,
            agency_per_second: 5_000,
            agency_burst: 10_000,
            stream_in_flight: 64,
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            capacity: 64,
            lease: Lasting::new(Duration::from_secs(20)),
            poll: Lasting::new(Duration::from_millis(250)),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            interval: Lasting::new(Duration::from_millis(250)),
            round: 4_096,
        }
    }
}

impl Default for DirectorySettings {
    fn default() -> Self {
        Self {
            refresh: Lasting::new(Duration::from_secs(2)),
            initial: None,
        }
    }
}

impl Default for SecretSettings {
    fn default() -> Self {
        Self {
            dir: "secrets".into(),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sample_ratio: 0.1,
            log_format: LogFormat::Auto,
            log_filter: "info".to_owned(),
        }
    }
}
