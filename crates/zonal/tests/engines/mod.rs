//! Tests that run over each engine.

/// Runs each test, a function of an [`EngineChoice`](zonal::EngineChoice), over each engine.
macro_rules! over_each_engine {
    ($($test:ident,)*) => {
        mod io_uring {
            $(#[test] fn $test() { super::$test(zonal::EngineChoice::IoUring) })*
        }
        mod threads {
            $(#[test] fn $test() { super::$test(zonal::EngineChoice::Threads) })*
        }
    };
}
pub(crate) use over_each_engine;
