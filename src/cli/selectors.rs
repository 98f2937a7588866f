//! The selectors shared by several commands.

use crate::select::Selectors;

/// The selected callbacks.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SelectorArgs {
    /// Only callbacks to this destination, such as http://host:8080
    #[arg(long)]
    destination: Option<String>,
    /// Only callbacks of this job
    #[arg(long)]
    job_id: Option<String>,
    /// Only callbacks with this job directory name, which DPF Tracker shows
    #[arg(long)]
    job_id_fs: Option<String>,
    /// Only callbacks whose last error is of this kind, such as timeout, status or expired
    #[arg(long)]
    error_kind: Option<String>,
    /// Only callbacks accepted (not: failed) within this duration (`2h`) or since this time
    /// (`2026-01-31T08:00:00Z`)
    #[arg(long)]
    since: Option<String>,
    /// Only callbacks accepted longer ago than this duration or before this time
    #[arg(long)]
    until: Option<String>,
    /// Only callbacks that ended (were delivered, or failed) within this duration or since this time
    #[arg(long)]
    ended_since: Option<String>,
    /// Only callbacks that ended longer ago than this duration or before this time
    #[arg(long)]
    ended_until: Option<String>,
}

impl From<SelectorArgs> for Selectors {
    fn from(args: SelectorArgs) -> Self {
        let SelectorArgs {
            destination,
            job_id,
            job_id_fs,
            error_kind,
            since,
            until,
            ended_since,
            ended_until,
        } = args;
        Self { destination, job_id, job_id_fs, error_kind, since, until, ended_since, ended_until }
    }
}
