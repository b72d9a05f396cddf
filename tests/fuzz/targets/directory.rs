//! The directory: any text is a directory or a list of findings, and what loads can be checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waymark_core::directory::{Directory, SourceFile};

fuzz_target!(|text: &str| {
    let file = SourceFile {
        path: "area.toml".to_owned(),
        text: text.to_owned(),
    };
    let _loaded = Directory::load(std::slice::from_ref(&file));
});
