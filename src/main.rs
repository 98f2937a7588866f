//! Parse, run, exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    seal_dpf_urlcallback::cli::main()
}
