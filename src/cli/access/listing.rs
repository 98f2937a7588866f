//! What both ways to the callbacks are asked for.

/// The word for the first line of a batch that the service did not take any more.
pub(in crate::cli) const NOT_TAKEN: &str = "not taken";

/// Which callbacks a listing is of, as the command line has them.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Listing {
    pub(in crate::cli) state: Option<String>,
    pub(in crate::cli) destination: Option<String>,
    pub(in crate::cli) job_id: Option<String>,
    pub(in crate::cli) since: Option<String>,
    pub(in crate::cli) limit: usize,
    pub(in crate::cli) cursor: Option<String>,
}
