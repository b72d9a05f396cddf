//! Rebuilds the crate when a migration is added.

fn main() {
    use std::io::Write as _;
    // The only channel to cargo is standard output, which the house lints keep for programs' own output.
    std::io::stdout()
        .write_all(b"cargo:rerun-if-changed=migrations\n")
        .expect("cargo reads the build script's output");
}
