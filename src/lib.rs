//! Durable HTTP callbacks for jobs of the document-processing factory (DPF).
//!
//! Four things happen to a callback, in one direction, and each has one home:
//!
//! ```text
//! job event ──► event ──► outbox.enqueue ──► [disk] ──► outbox.claim ──► delivery ──► outbox.settle ──► [disk]
//!               intake     (group commit)                due, by lane     PUT, retry    (same commit path)
//! ```
//!
//! # The map
//!
//! A module imports only from modules to its left; `delivery` and `api` do not know each
//! other. A test holds the code to it.
//!
//! ```text
//! clock, callback, measure, tls ◄ event, egress, outbox ◄ health, select, intake, archive, datadir, telemetry
//!                 ◄ delivery │ api ◄ config ◄ service ◄ cli ◄ main
//! ```

pub mod api;
pub mod archive;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod config;
pub mod datadir;
pub mod delivery;
pub mod egress;
pub mod event;
pub mod health;
pub mod intake;
pub mod measure;
pub mod outbox;
pub mod report;
pub mod select;
pub mod service;
pub mod telemetry;
pub mod tls;
