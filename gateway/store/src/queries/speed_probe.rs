use super::fixture::bench;
use futures::StreamExt as _;
use waymark_core::port::ReferralStore as _;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe() {
    let Some(bench) = bench().await else { return };
    for (n, flight) in [(2000usize, 1usize), (10000, 64), (20000, 256)] {
        let drafts: Vec<_> = (0..n).map(|i| bench.draft(&format!("c{i}"), &["ep-a"])).collect();
        let t = tokio::time::Instant::now();
        futures::stream::iter(drafts.into_iter().map(|d| bench.store.accept(d)))
            .buffer_unordered(flight)
            .for_each(|r| { r.unwrap(); std::future::ready(()) })
            .await;
        let s = t.elapsed().as_secs_f64();
        eprintln!("{flight} in flight: {:.0}/s", n as f64 / s);
    }
}
