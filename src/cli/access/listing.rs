//! Requests to the service or the store.

use crate::select::Selectors;

/// Outcome of the first line of a batch that the service did not accept.
pub(in crate::cli) const NOT_TAKEN: &str = "not taken";

/// Filters of a listing, as given on the command line.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Listing {
    pub(in crate::cli) state: Option<String>,
    pub(in crate::cli) selectors: Selectors,
    pub(in crate::cli) limit: usize,
    pub(in crate::cli) cursor: Option<String>,
}
