//! Compiles the protocol with a compiler that is itself a crate, so that a fresh machine needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    let files = protox::compile(
        [
            "jcm/v1/definitions.proto",
            "jcm/v1/store.proto",
            "jcm/v1/discovery.proto",
            "jcm/v1/peer.proto",
            "jcm/v1/registry.proto",
        ],
        [root],
    )?;
    tonic_prost_build::configure()
        // Maps in the order of their keys: the same value has the same bytes.
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
