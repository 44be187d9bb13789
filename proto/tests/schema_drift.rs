//! The committed generated code is what the schema says.

use std::path::{Path, PathBuf};

/// Regenerate with `POSTERN_REGENERATE=1 cargo test -p postern-proto --test schema_drift`.
#[test]
fn committed_code_is_what_the_schema_generates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/wire/generated");
    let out = match std::env::var_os("POSTERN_REGENERATE") {
        Some(_) => committed.clone(),
        None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("generated"),
    };
    std::fs::create_dir_all(&out).unwrap();
    let schema = root.join("schema");
    let files = ["postern/v1/ca.proto", "postern/v1/admin.proto"].map(|file| schema.join(file));
    let descriptors = protox::compile(files, [&schema]).unwrap();
    tonic_prost_build::configure().out_dir(&out).compile_fds(descriptors).unwrap();
    let read = |dir: &Path| std::fs::read_to_string(dir.join("postern.v1.rs")).unwrap();
    assert!(read(&out) == read(&committed), "schema and generated code differ: regenerate and commit");
}
