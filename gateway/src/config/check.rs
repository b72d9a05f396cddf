//! What the parts of a configuration must be, each and together.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use waymark_core::error::Violation;

use super::{Config, Lasting};

/// The ranges of numbers and times.
pub mod limits {
    use std::time::Duration;

    /// Longest drain.
    pub const DRAIN_MAX: Duration = Duration::from_mins(10);
    /// Longest call.
    pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_mins(10);
    /// Most calls at work.
    pub const IN_FLIGHT_MAX: u32 = 100_000;
    /// Most calls of one agency in one second.
    pub const AGENCY_PER_SECOND_MAX: u32 = 1_000_000;
    /// Most items of one stream at work.
    pub const STREAM_IN_FLIGHT_MAX: u32 = 1_024;
    /// Most attempts at the same time.
    pub const CAPACITY_MAX: u32 = 10_000;
    /// Shortest lease.
    pub const LEASE_MIN: Duration = Duration::from_secs(2);
    /// Longest lease.
    pub const LEASE_MAX: Duration = Duration::from_mins(10);
    /// Longest pause between two looks for due work.
    pub const POLL_MAX: Duration = Duration::from_secs(10);
    /// Longest pause between two rounds of the sequencer.
    pub const LOG_INTERVAL_MAX: Duration = Duration::from_mins(1);
    /// Most entries of one round.
    pub const LOG_ROUND_MAX: u32 = 4_096;
    /// Longest pause between two looks for a release: an instance follows within 5 seconds (ruling 21).
    pub const DIRECTORY_REFRESH_MAX: Duration = Duration::from_secs(4);
    /// Most MLLP listeners.
    pub const MLLP_LISTENERS_MAX: usize = 64;
    /// Most services that a FHIR listener answers for.
    pub const FHIR_TARGETS_MAX: usize = 64;
}

impl Config {
    /// Every key that is out of its range or does not go with another.
    pub(super) fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        self.check_ranges(&mut found);
        self.check_listeners(&mut found);
        if !self.database.url.is_known() {
            found.push(Violation::new(
                "database.url",
                "begins with sqlite:// or postgres://",
            ));
        }
        if !(0.0..=1.0).contains(&self.telemetry.sample_ratio) {
            found.push(Violation::new("telemetry.sample_ratio", "is 0 to 1"));
        }
        if let Some(endpoint) = &self.telemetry.otlp_endpoint
            && !["http://", "https://"]
                .iter()
                .any(|scheme| endpoint.starts_with(scheme))
        {
            found.push(Violation::new(
                "telemetry.otlp_endpoint",
                "begins with http:// or https://",
            ));
        }
        found
    }

    fn check_ranges(&self, found: &mut Vec<Violation>) {
        const SHORTEST: Duration = Duration::from_millis(1);
        let times = [
            (
                "gateway.drain",
                self.gateway.drain,
                SHORTEST,
                limits::DRAIN_MAX,
            ),
            (
                "limits.request_timeout",
                self.limits.request_timeout,
                SHORTEST,
                limits::REQUEST_TIMEOUT_MAX,
            ),
            (
                "delivery.lease",
                self.delivery.lease,
                limits::LEASE_MIN,
                limits::LEASE_MAX,
            ),
            (
                "delivery.poll",
                self.delivery.poll,
                SHORTEST,
                limits::POLL_MAX,
            ),
            (
                "log.interval",
                self.log.interval,
                SHORTEST,
                limits::LOG_INTERVAL_MAX,
            ),
            (
                "directory.refresh",
                self.directory.refresh,
                SHORTEST,
                limits::DIRECTORY_REFRESH_MAX,
            ),
        ];
        for (key, value, least, most) in times {
            if !(least..=most).contains(&value.get()) {
                let (least, most) = (Lasting::new(least), Lasting::new(most));
                found.push(Violation::new(key, format!("is {least} to {most}")));
            }
        }
        let numbers = [
            (
                "limits.in_flight",
                self.limits.in_flight,
                limits::IN_FLIGHT_MAX,
            ),
            ("limits.streams", self.limits.streams, limits::IN_FLIGHT_MAX),
            (
                "limits.agency_per_second",
                self.limits.agency_per_second,
                limits::AGENCY_PER_SECOND_MAX,
            ),
            (
                "limits.agency_burst",
                self.limits.agency_burst,
                limits::AGENCY_PER_SECOND_MAX,
            ),
            (
                "limits.stream_in_flight",
                self.limits.stream_in_flight,
                limits::STREAM_IN_FLIGHT_MAX,
            ),
            (
                "delivery.capacity",
                self.delivery.capacity,
                limits::CAPACITY_MAX,
            ),
            ("log.round", self.log.round, limits::LOG_ROUND_MAX),
        ];
        for (key, value, most) in numbers {
            if !(1..=most).contains(&value) {
                found.push(Violation::new(key, format!("is 1 to {most}")));
            }
        }
    }

    fn check_listeners(&self, found: &mut Vec<Violation>) {
        if let Some(fhir) = &self.listen.fhir {
            let targets = &fhir.targets;
            let good = |target: &String| {
                let parts = target.rsplit_once('|');
                parts.is_some_and(|(system, value)| system.contains(':') && !value.is_empty())
            };
            if targets.is_empty()
                || targets.len() > limits::FHIR_TARGETS_MAX
                || !targets.iter().all(good)
            {
                let why = "names 1 to 64 services of ours as `system|value`";
                found.push(Violation::new("listen.fhir.targets", why));
            }
        }
        let mllp = &self.listen.mllp;
        if mllp.len() > limits::MLLP_LISTENERS_MAX {
            found.push(Violation::new(
                "listen.mllp",
                format!("at most {}", limits::MLLP_LISTENERS_MAX),
            ));
        }
        let mut names = BTreeSet::new();
        for (listener, number) in mllp.iter().zip(0..) {
            let at = |key: &str| format!("listen.mllp[{number}].{key}");
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if !(1..=32).contains(&listener.name.len()) || !listener.name.bytes().all(plain) {
                found.push(Violation::new(at("name"), "is 1 to 32 of a-z, 0-9 and -"));
            }
            if !names.insert(&listener.name) {
                found.push(Violation::new(
                    at("name"),
                    "is the name of another listener too",
                ));
            }
            if !listener.tls && !is_private(listener.address.ip()) {
                found.push(Violation::new(
                    at("tls"),
                    "is needed here: without it anybody who reaches the address may speak, so only a private or \
                     loopback address will do",
                ));
            }
        }
        let mut taken: BTreeSet<SocketAddr> = BTreeSet::new();
        let all = [
            ("listen.grpc", Some(self.listen.grpc)),
            ("listen.metrics", self.listen.metrics),
        ]
        .into_iter()
        .chain([("listen.webhook", self.listen.webhook)])
        .chain(
            self.listen
                .fhir
                .iter()
                .map(|l| ("listen.fhir", Some(l.address))),
        )
        .chain(mllp.iter().map(|l| ("listen.mllp", Some(l.address))));
        for (key, address) in all.filter_map(|(key, address)| Some((key, address?))) {
            // Port 0 asks the system for a free one.
            if address.port() != 0 && !taken.insert(address) {
                found.push(Violation::new(
                    key,
                    format!("{address} is taken by another listener"),
                ));
            }
        }
    }
}

/// Whether an address names one private or loopback interface.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
