//! Parse, run, exit code; nothing else.

use std::process::ExitCode;

/// What one thread makes here another one frees (pages of the store, above all), and the
/// system's allocators are slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    seal_dpf_urlcallback::cli::main()
}
