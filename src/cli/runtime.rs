//! The runtime of the service and of commands.

/// The runtime: of the service with as many threads as there are processors, of a command with this one.
pub(super) fn runtime(service: bool) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = if service {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build()
}
