//! The program. [`cli`] has its commands; the rest is in the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
