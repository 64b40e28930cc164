//! Makes the pack that the target `packs` starts from, with new keys and salts: `cargo run --package fuzzing --example
//! pack`. Its corpus is of no use then.

use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let (pack, known) = fuzzing::make_pack().await;
    std::fs::write(fixtures.join("pack.bin"), pack)?;
    std::fs::write(fixtures.join("pack.json"), known)
}
