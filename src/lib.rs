//! Durable HTTP callbacks for jobs of the document-processing factory (DPF).
//!
//! ```text
//! job event ──► event ──► outbox.enqueue ──► [disk] ──► outbox.claim ──► delivery ──► outbox.settle ──► [disk]
//!               intake     (group commit)                due callbacks    PUT, retry    (same commit path)
//! ```
//!
//! ARCHITECTURE.md has the map of the modules, a glossary, and a table of where to change what.

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
pub mod files;
pub mod health;
pub mod intake;
pub mod measure;
pub mod outbox;
pub mod page;
pub mod recent;
pub mod report;
pub mod select;
pub mod service;
pub mod sources;
pub mod telemetry;
pub mod tls;
