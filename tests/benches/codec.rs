//! What each adapter's writing and reading cost: messages a second, allocations and bytes allocated of one message.
//!
//! `cargo bench -p waymark-tests --bench codec`. The limit of the same run is `serde_json` over the same referral: what any
//! writer or reader of the whole of it must do at least.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;
use waymark_adapters::contract::sample;
use waymark_adapters::inspect::Inspector;
use waymark_core::delivery::Kind;
use waymark_core::directory::AdapterKind;
use waymark_core::identifier::NhsNumber;
use waymark_core::port::Source;
use waymark_core::referral::Referral;

/// Rounds, interleaved; the median counts.
const ROUNDS: usize = 5;
/// How long one measurement of a round takes.
const ROUND: Duration = Duration::from_millis(300);
/// Messages between two looks at the clock.
const BATCH: u32 = 16;

/// One thing that is measured.
struct Case<'a> {
    name: &'static str,
    does: &'static str,
    bytes: usize,
    run: Box<dyn Fn() + 'a>,
    rates: Vec<f64>,
}

impl<'a> Case<'a> {
    fn new(name: &'static str, does: &'static str, bytes: usize, run: impl Fn() + 'a) -> Self {
        Self {
            name,
            does,
            bytes,
            run: Box::new(run),
            rates: Vec::new(),
        }
    }

    fn round(&mut self) {
        let begun = Instant::now();
        let mut count = 0_u32;
        while begun.elapsed() < ROUND {
            for _ in 0..BATCH {
                (self.run)();
            }
            count += BATCH;
        }
        self.rates
            .push(f64::from(count) / begun.elapsed().as_secs_f64());
    }

    fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    }
}

fn source(kind: Kind) -> Source {
    let mut source = sample::source(kind);
    if let Some(content) = source.content.as_mut() {
        // One that every format takes back.
        content.child.nhs_number = NhsNumber::parse("9434765919").ok();
    }
    source
}

/// What comes in by ways that take statuses alone.
const STATUS: &[u8] = include_bytes!("../fuzz/seeds/webhook/status.json");
const RECEIPT: &[u8] = include_bytes!("../fuzz/seeds/notify/receipt.json");

const KINDS: [(AdapterKind, &str); 8] = [
    (AdapterKind::Grpc, "grpc"),
    (AdapterKind::Mailbox, "mailbox"),
    (AdapterKind::Webhook, "webhook"),
    (AdapterKind::Hl7v2, "hl7v2"),
    (AdapterKind::Fhir, "fhir"),
    (AdapterKind::File, "file (csv)"),
    (AdapterKind::Mesh, "mesh (json)"),
    (AdapterKind::Notify, "notify"),
];

fn cases<'a>(
    inspector: &'a Inspector,
    sources: &'a [(AdapterKind, &'static str, Source, Vec<u8>)],
    referral: &'a Referral,
    canonical: &'a [u8],
) -> Vec<Case<'a>> {
    let mut cases = vec![
        Case::new("limit (serde_json)", "write", canonical.len(), || {
            drop(black_box(serde_json::to_vec(black_box(referral))));
        }),
        Case::new("limit (serde_json)", "read", canonical.len(), || {
            drop(black_box(serde_json::from_slice::<Referral>(black_box(
                canonical,
            ))));
        }),
    ];
    for (kind, name, source, bytes) in sources {
        let written = inspector
            .write(*kind, source)
            .map_or(0, |w| w.bytes.expose().len());
        cases.push(Case::new(name, "write", written, || {
            drop(black_box(inspector.write(*kind, black_box(source))));
        }));
        cases.push(Case::new(name, "read", bytes.len(), || {
            drop(black_box(inspector.read(*kind, black_box(bytes))));
        }));
    }
    cases
}

fn main() -> anyhow::Result<()> {
    let inspector = Inspector::new()?;
    let new = source(Kind::New);
    let referral = new.content.clone().unwrap_or_else(sample::referral);
    let canonical = serde_json::to_vec(&referral)?;
    let mut sources = Vec::new();
    for (kind, name) in KINDS {
        let source = match kind {
            AdapterKind::Notify => source(Kind::Guidance),
            _ => new.clone(),
        };
        let bytes = match kind {
            AdapterKind::Webhook => STATUS.to_vec(),
            AdapterKind::Notify => RECEIPT.to_vec(),
            _ => inspector.write(kind, &source)?.bytes.into_inner(),
        };
        anyhow::ensure!(
            inspector.read(kind, &bytes).is_some(),
            "{name} reads its own"
        );
        sources.push((kind, name, source, bytes));
    }
    let mut cases = cases(&inspector, &sources, &referral, &canonical);
    for _ in 0..ROUNDS {
        cases.iter_mut().for_each(Case::round);
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{:<20} {:<6} {:>8} {:>12} {:>12} {:>12} {:>8}",
        "adapter", "does", "bytes", "messages/s", "allocations", "bytes alloc", "ratio"
    )?;
    let limit = |does: &str| cases.iter().find(|case| case.does == does).map(Case::rate);
    for case in &cases {
        let counted = allocation_counter::measure(|| (case.run)());
        writeln!(
            out,
            "{:<20} {:<6} {:>8} {:>12.0} {:>12} {:>12} {:>8.3}",
            case.name,
            case.does,
            case.bytes,
            case.rate(),
            counted.count_total,
            counted.bytes_total,
            case.rate() / limit(case.does).unwrap_or(1.0)
        )?;
    }
    Ok(())
}
