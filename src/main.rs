//! Parse, run, exit code; nothing else.

use std::process::ExitCode;

/// What one thread makes here another one frees (pages of the store, above all), which the
/// system's allocators are slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    seal_dpf_urlcallback::cli::main()
}
