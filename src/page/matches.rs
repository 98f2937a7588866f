//! How many callbacks a filter matches, up to a limit.

use crate::outbox::{Outbox, OutboxError, Page, Query};

/// Maximum number of callbacks that are counted.
const COUNTED: usize = 1000;

/// How many callbacks match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matches {
    pub(super) count: usize,
    /// Whether there may be more.
    pub(super) more: bool,
}

impl Matches {
    /// The number for a query whose page was read already.
    pub(super) async fn of(
        outbox: &dyn Outbox,
        query: Query,
        page: &Page,
    ) -> Result<Self, OutboxError> {
        let known = Self { count: page.callbacks.len(), more: page.next.is_some() };
        // If the page is not full, the limit of what one request reads was reached.
        let is_short = known.more && known.count < query.limit;
        if is_short || (query.cursor.is_none() && !known.more) {
            return Ok(known);
        }
        let all = outbox.list(Query { cursor: None, limit: COUNTED, ..query }).await?;
        Ok(Self { count: all.callbacks.len(), more: all.next.is_some() })
    }
}
