//! Parse, run, exit code; nothing else.

use std::process::ExitCode;

/// What one thread makes here another one frees (pages of the store, above all), and the
/// system's allocators are slow at that.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    seal_dpf_urlcallback::cli::main()
}
