//! Settings of single destinations: each key affects only its destinations.

mod explain;
mod limits;
mod oauth;
mod requests;
mod slow_start;

use crate::support::{Receiver, Service};

/// A section for a receiver.
fn section(receiver: &Receiver, settings: &str) -> String {
    format!("[destinations.\"{}\"]\n{settings}\n", receiver.url(""))
}

/// The errors of `check-config` for these settings.
fn refused(settings: &str) -> String {
    let service = Service::prepare(settings);
    let output = service.run(&["check-config"]);
    assert_eq!(output.status.code(), Some(2), "{settings}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}
