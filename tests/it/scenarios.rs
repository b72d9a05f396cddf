//! The acceptance scenarios of the domain, each on both stores, over real sockets.

/// Stamps tests over both engines; the name of the module decides the engine and the test group.
macro_rules! both_engines {
    ($($(#[$meta:meta])* $test:ident,)*) => {
        mod sqlite {
            $(
                $(#[$meta])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() -> anyhow::Result<()> {
                    super::$test(waymark_tests::engine::Engine::Sqlite).await
                }
            )*
        }
        mod postgres {
            $(
                $(#[$meta])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() -> anyhow::Result<()> {
                    super::$test(waymark_tests::engine::Engine::Postgres).await
                }
            )*
        }
    };
}

mod audit;
mod cancel;
mod crash_points;
mod directory;
mod identity;
mod outage;
mod poison;
mod routing;
mod safety;
mod status;
