//! `cargo xtask`: everything is in the library, so that the black-box tests can start servers the same way.

fn main() -> std::process::ExitCode {
    xtask::main()
}
