//! The committed code is what `proto/control.proto` compiles to.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let set =
        protox::compile(["control.proto"], [root.join("proto")]).expect("control.proto compiles");
    let out = tempfile::tempdir().expect("a temporary directory");
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(set)
        .expect("code generation");
    let fresh =
        std::fs::read_to_string(out.path().join("msb.control.v1.rs")).expect("one output file");
    let committed = root.join("src/generated/msb.control.v1.rs");
    if std::env::var_os("MSB_REGENERATE").is_some() {
        std::fs::create_dir_all(committed.parent().expect("a parent")).expect("the directory");
        std::fs::write(&committed, &fresh).expect("writing the generated code");
    }
    let current = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        current == fresh,
        "src/generated is stale: run MSB_REGENERATE=1 cargo test -p msb-control-proto"
    );
}
