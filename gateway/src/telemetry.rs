//! Logs, traces and metrics: names as constants, context in and out, and no personal data in any of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::metrics::{Counter, Gauge, Histogram, MeterProvider as _};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use prometheus::Registry;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};
use waymark_core::id::EndpointId;
use waymark_core::port::Leased;

/// How telemetry is set up.
#[derive(Clone, Debug)]
pub struct TelemetryOptions {
    /// Log filter, in the form of `tracing-subscriber`.
    pub filter: String,
    /// Whether logs are JSON lines.
    pub json: bool,
    /// OTLP gRPC endpoint; none exports nothing.
    pub otlp_endpoint: Option<String>,
    /// Share of new traces that are kept, 0 to 1.
    pub sample_ratio: f64,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            json: false,
            otlp_endpoint: None,
            sample_ratio: 1.0,
        }
    }
}

/// What must be shut down at the end, so that nothing is left unsent.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    meters: SdkMeterProvider,
    registry: Registry,
}

/// Components whose own spans would trace the exporter itself.
const UNTRACED: &[&str] = &[
    "h2",
    "hyper",
    "tonic",
    "tower",
    "reqwest",
    "rustls",
    "opentelemetry",
];

impl Telemetry {
    /// Sets logs, traces and metrics up for this process. Call inside the runtime, once.
    ///
    /// # Errors
    /// When the exporter's address or the filter is wrong.
    pub fn install(options: &TelemetryOptions) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let resource = Resource::builder().with_service_name("waymark").build();
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()?;
        let mut meters = SdkMeterProvider::builder()
            .with_reader(prometheus)
            .with_resource(resource.clone());
        let mut traces = None;
        if let Some(endpoint) = &options.otlp_endpoint {
            let metrics = opentelemetry_otlp::MetricExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()
                .context("set up the OTLP metric exporter")?;
            meters = meters.with_periodic_exporter(metrics);
            let spans = opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()
                .context("set up the OTLP span exporter")?;
            let sampler =
                Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.sample_ratio)));
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(spans)
                .with_sampler(sampler)
                .with_resource(resource)
                .build();
            traces = Some(provider);
        }
        let meters = meters.build();
        // One filter for lines and spans alike: filters of single layers go wrong where a library asks whether a line
        // would be written and then does not write it, and the next line of the thread is lost.
        let mut filter = EnvFilter::try_new(&options.filter).context("read the log filter")?;
        for name in UNTRACED {
            filter = filter.add_directive(format!("{name}=warn").parse()?);
        }
        filter = filter.add_directive("sqlx::postgres::notice=warn".parse()?);
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let logs = if options.json {
            logs.json().boxed()
        } else {
            logs.boxed()
        };
        let spans = traces
            .as_ref()
            .map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("waymark")));
        tracing_subscriber::registry()
            .with(filter)
            .with(spans)
            .with(logs)
            .try_init()
            .context("telemetry was already set up")?;
        Ok(Self {
            traces,
            meters,
            registry,
        })
    }

    /// Metrics alone, for tests and tools that keep their own logs.
    ///
    /// # Errors
    /// When the registry refuses the exporter.
    pub fn metrics_only() -> anyhow::Result<Self> {
        let registry = Registry::new();
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()?;
        Ok(Self {
            traces: None,
            meters: SdkMeterProvider::builder().with_reader(prometheus).build(),
            registry,
        })
    }

    /// The instruments.
    pub fn metrics(&self) -> Metrics {
        Metrics::new(&self.meters, self.registry.clone())
    }

    /// Sends what is left and ends the exporters.
    pub fn shut_down(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown_with_timeout(Duration::from_secs(5))
        {
            tracing::warn!(%error, "the last spans may not have been sent");
        }
        if let Err(error) = self.meters.shutdown_with_timeout(Duration::from_secs(5)) {
            tracing::debug!(%error, "the last metrics may not have been sent");
        }
    }
}

/// The instruments, made once. Labels are endpoint ids of the directory and closed words; never anything of a person.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    accepted: Counter<u64>,
    accept_seconds: Histogram<f64>,
    attempts: Counter<u64>,
    breakers: Gauge<u64>,
    lanes: Gauge<u64>,
    oldest: Gauge<f64>,
    outbox: Gauge<u64>,
    outbox_age: Gauge<f64>,
    log_size: Gauge<u64>,
    alarms: Gauge<u64>,
    conservation: Gauge<u64>,
    certificate: Gauge<f64>,
    free_disk: Gauge<u64>,
    last_run: Gauge<f64>,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Metrics {
    fn new(meters: &SdkMeterProvider, registry: Registry) -> Self {
        let meter = meters.meter("waymark");
        let gauge = |name, text| meter.u64_gauge(name).with_description(text).build();
        let age = |name, text| {
            meter
                .f64_gauge(name)
                .with_description(text)
                .with_unit("s")
                .build()
        };
        Self {
            registry,
            accepted: meter
                .u64_counter("waymark.accepts")
                .with_description("Submits by outcome")
                .build(),
            accept_seconds: meter
                .f64_histogram("waymark.accept.duration")
                .with_description("Time from request to durable answer")
                .with_unit("s")
                .with_boundaries(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
                ])
                .build(),
            attempts: meter
                .u64_counter("waymark.attempts")
                .with_description("Delivery attempts by endpoint and outcome")
                .build(),
            breakers: gauge("waymark.breakers.open", "Endpoints whose breaker is open"),
            lanes: gauge(
                "waymark.backlog.lanes",
                "Lanes with live work, by endpoint, counted up to 10000",
            ),
            oldest: age(
                "waymark.backlog.oldest.age",
                "Age of the oldest live head, by endpoint",
            ),
            outbox: gauge("waymark.log.outbox", "Entries that wait for the sequencer"),
            outbox_age: age("waymark.log.outbox.age", "Age of the oldest of them"),
            log_size: gauge("waymark.log.size", "Entries in the delivery log"),
            alarms: gauge("waymark.alarms.open", "Open alarms, by kind"),
            conservation: gauge(
                "waymark.conservation.difference",
                "Faults that the last conservation check found",
            ),
            certificate: age(
                "waymark.certificate.remaining",
                "Time until the server's certificate ends",
            ),
            free_disk: gauge("waymark.disk.free", "Bytes free on the database's disk"),
            last_run: age(
                "waymark.task.last.run",
                "Unix time of the last completed run, by background task",
            ),
            seen: Arc::default(),
        }
    }

    /// Counts a submit by outcome and notes how long it took.
    pub fn accept(&self, outcome: &'static str, took: Duration) {
        self.accepted.add(1, &[KeyValue::new("outcome", outcome)]);
        self.accept_seconds.record(took.as_secs_f64(), &[]);
    }

    /// Counts an attempt.
    pub fn attempt(&self, endpoint: &EndpointId, outcome: &'static str) {
        self.attempts.add(
            1,
            &[
                KeyValue::new("endpoint", endpoint.to_string()),
                KeyValue::new("outcome", outcome),
            ],
        );
    }

    /// Notes how many breakers are open.
    pub fn breakers_open(&self, count: u64) {
        self.breakers.record(count, &[]);
    }

    /// Notes one endpoint's backlog.
    pub fn backlog(&self, endpoint: &EndpointId, lanes: u64, oldest: Duration) {
        let label = [KeyValue::new("endpoint", endpoint.to_string())];
        self.lanes.record(lanes, &label);
        self.oldest.record(oldest.as_secs_f64(), &label);
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.to_string());
    }

    /// Sets endpoints without work back to nothing, so that a drained backlog does not go on showing.
    pub fn drained(&self, still: &[EndpointId]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|endpoint| {
            let live = still.iter().any(|e| e.as_str() == endpoint);
            if !live {
                let label = [KeyValue::new("endpoint", endpoint.clone())];
                self.lanes.record(0, &label);
                self.oldest.record(0.0, &label);
            }
            live
        });
    }

    /// Notes the log and its outbox.
    pub fn log(&self, size: u64, outbox: u64, age: Duration) {
        self.log_size.record(size, &[]);
        self.outbox.record(outbox, &[]);
        self.outbox_age.record(age.as_secs_f64(), &[]);
    }

    /// Notes open alarms of a kind.
    pub fn alarms(&self, kind: &'static str, open: u64) {
        self.alarms.record(open, &[KeyValue::new("kind", kind)]);
    }

    /// Notes what the conservation check found.
    pub fn conservation(&self, faults: u64) {
        self.conservation.record(faults, &[]);
    }

    /// Notes the bytes free on the database's disk.
    pub fn free_disk(&self, bytes: u64) {
        self.free_disk.record(bytes, &[]);
    }

    /// Notes how long the server's certificate still holds.
    pub fn certificate(&self, remaining: Duration) {
        self.certificate.record(remaining.as_secs_f64(), &[]);
    }

    /// Notes that a background task completed a run.
    pub fn ran(&self, task: &'static str, at: waymark_core::time::Timestamp) {
        let seconds = Duration::from_millis(u64::try_from(at.as_ms()).unwrap_or(0)).as_secs_f64();
        self.last_run
            .record(seconds, &[KeyValue::new("task", task)]);
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn prometheus(&self) -> anyhow::Result<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())?;
        Ok(text)
    }
}

struct One(String);

impl Extractor for One {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0.as_str())
    }
    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

impl Injector for One {
    fn set(&mut self, key: &str, value: String) {
        if key == "traceparent" {
            self.0 = value;
        }
    }
}

/// A traceparent, if it is well-formed (W3C Trace Context, version 00): tracestate and baggage are never taken.
pub fn well_formed(traceparent: &str) -> Option<String> {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else {
        return None;
    };
    let hex = |s: &str, len: usize| {
        s.len() == len && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let ok = *version == "00"
        && hex(trace, 32)
        && hex(span, 16)
        && hex(flags, 2)
        && trace.bytes().any(|b| b != b'0')
        && span.bytes().any(|b| b != b'0');
    ok.then(|| traceparent.to_owned())
}

/// Makes a span a child of the caller's.
pub fn continue_trace(span: &Span, traceparent: &str) {
    let context = TraceContextPropagator::new().extract(&One(traceparent.to_owned()));
    if let Err(error) = span.set_parent(context) {
        tracing::debug!(?error, "the caller's trace could not be continued");
    }
}

/// The traceparent of a span, to be stored and sent on; `None` when it is not recorded anywhere.
pub fn traceparent_of(span: &Span) -> Option<String> {
    let context: Context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut out = One(String::new());
    TraceContextPropagator::new().inject_context(&context, &mut out);
    well_formed(&out.0)
}

/// The span of one attempt; it links to the submitting call's span rather than being its child, which ended long ago.
pub fn attempt_span(leased: &Leased) -> Span {
    let span = tracing::info_span!(
        "delivery.attempt",
        delivery.id = %leased.token.delivery,
        endpoint.id = %leased.endpoint,
        delivery.kind = leased.kind.as_str(),
        attempt.number = leased.attempts + 1,
    );
    if let Some(parent) = leased.traceparent.as_deref().and_then(well_formed) {
        let context = TraceContextPropagator::new().extract(&One(parent.clone()));
        span.add_link(context.span().span_context().clone());
        continue_trace(&span, &parent);
    }
    span
}

/// An error with its causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        out.push_str(": ");
        out.push_str(&e.to_string());
        cause = e.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_context_is_taken() {
        assert!(well_formed("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_some());
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
        ] {
            assert!(well_formed(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_drained_endpoint_shows_no_backlog() {
        let telemetry = Telemetry::metrics_only().unwrap();
        let metrics = telemetry.metrics();
        let id: EndpointId = "r1l-mllp".parse().unwrap();
        metrics.backlog(&id, 3, Duration::from_secs(9));
        assert!(
            metrics
                .prometheus()
                .unwrap()
                .lines()
                .any(|l| l.starts_with("waymark_backlog_lanes{") && l.ends_with(" 3"))
        );
        metrics.drained(&[]);
        assert!(
            metrics
                .prometheus()
                .unwrap()
                .lines()
                .any(|l| l.starts_with("waymark_backlog_lanes{") && l.ends_with(" 0"))
        );
    }
}
