//! Generates the Rust types, service traits, canonical JSON and the descriptor set from `waymark/v1/*.proto`.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;
use tonic_prost_build::FileDescriptorSet;

const PROTO_DIR: &str = "waymark/v1";
const PACKAGE: &str = "waymark.v1";

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script where to write by a variable alone"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(proto_files()?, ["."])?;
    let encoded = descriptors.encode_to_vec();
    fs::write(out.join("descriptors.bin"), &encoded)?;
    fs::write(out.join("redacted_debug.rs"), redacted_debug(&descriptors)?)?;

    // pbjson-types gives the well-known types canonical JSON; without `compile_well_known_types` prost-build
    // refuses the path as a duplicate of its own.
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .skip_debug([format!(".{PACKAGE}")])
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .extern_path(".google.protobuf", "::pbjson_types")
        .build(&[format!(".{PACKAGE}")])?;
    Ok(())
}

/// Lists the contract's files in one order, so that the same sources give the same descriptor set.
fn proto_files() -> Result<BTreeSet<PathBuf>, Box<dyn Error>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(PROTO_DIR)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.insert(Path::new(PROTO_DIR).join(path.file_name().ok_or("a file has a name")?));
        }
    }
    Ok(files)
}

/// Writes a `Debug` for every message and oneof that shows its type and nothing it holds (an enum shows its name): the
/// contract carries children's data, and a `{:?}` in a log line must not be able to spill it.
fn redacted_debug(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    for file in descriptors
        .file
        .iter()
        .filter(|file| file.package() == PACKAGE)
    {
        for choice in &file.enum_type {
            write_enum_debug(&mut code, choice.name())?;
        }
        for message in &file.message_type {
            let name = message.name();
            if !message.nested_type.is_empty() {
                return Err(format!("{name}: the contract declares no nested messages").into());
            }
            write_debug(&mut code, name, name)?;
            for (index, oneof) in message.oneof_decl.iter().enumerate() {
                let synthetic = message.field.iter().any(|field| {
                    field.proto3_optional()
                        && field.oneof_index.and_then(|of| usize::try_from(of).ok()) == Some(index)
                });
                if !synthetic {
                    let choice = upper_camel(oneof.name());
                    write_debug(
                        &mut code,
                        &format!("{}::{choice}", lower_snake(name)),
                        &choice,
                    )?;
                }
            }
        }
    }
    Ok(code)
}

fn write_debug(code: &mut String, path: &str, shown: &str) -> std::fmt::Result {
    writeln!(
        code,
        "impl ::core::fmt::Debug for {path} {{\n    \
             fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
                 f.debug_struct(\"{shown}\").finish_non_exhaustive()\n    }}\n}}"
    )
}

/// A code of the contract holds nothing of anybody: it shows its name.
fn write_enum_debug(code: &mut String, name: &str) -> std::fmt::Result {
    writeln!(
        code,
        "impl ::core::fmt::Debug for {name} {{\n    \
             fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
                 f.write_str(self.as_str_name())\n    }}\n}}"
    )
}

fn lower_snake(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

fn upper_camel(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            word.chars()
                .take(1)
                .map(|first| first.to_ascii_uppercase())
                .chain(word.chars().skip(1))
        })
        .collect()
}
