//! The `notify` adapter: see the library.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waymark_core::directory::AdapterKind;

fuzz_target!(|data: &[u8]| waymark_fuzz::adapter(AdapterKind::Notify, data));
