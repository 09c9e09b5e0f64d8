//! The `smqtt` command: broker, authority and device in one binary.
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
