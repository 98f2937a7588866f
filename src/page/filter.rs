//! The filter of a view: what is in its URL, so that it can be sent to a colleague.

use url::form_urlencoded;

use crate::{
    clock::Timestamp,
    outbox::{self, StateName},
    select::{self, SelectError, Selection, Selectors},
};

/// Callbacks on a page.
const PAGE: usize = 50;

/// Selectors as they are in the URL; empty ones count as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) ids: Vec<String>,
    pub(super) state: String,
    pub(super) destination: String,
    pub(super) job_id: String,
    pub(super) job_id_fs: String,
    pub(super) error_kind: String,
    pub(super) since: String,
    pub(super) until: String,
    pub(super) ended_since: String,
    pub(super) ended_until: String,
    pub(super) cursor: String,
}

impl Filter {
    /// Sets a field by its name in URLs and forms; `false` if there is none with this name.
    pub(super) fn set(&mut self, name: &str, value: &str) -> bool {
        let value = value.trim();
        let field = match name {
            "id" => {
                if !value.is_empty() {
                    self.ids.push(value.to_owned());
                }
                return true;
            }
            "state" => &mut self.state,
            "destination" => &mut self.destination,
            "jobId" => &mut self.job_id,
            "jobIdFs" => &mut self.job_id_fs,
            "errorKind" => &mut self.error_kind,
            "since" => &mut self.since,
            "until" => &mut self.until,
            "endedSince" => &mut self.ended_since,
            "endedUntil" => &mut self.ended_until,
            "cursor" => &mut self.cursor,
            _ => return false,
        };
        value.clone_into(field);
        true
    }

    /// Names and values of what is given, without the cursor.
    pub(super) fn fields(&self) -> Vec<(&'static str, &str)> {
        let ids = self.ids.iter().map(|id| ("id", id.as_str()));
        let others = [
            ("state", &self.state),
            ("destination", &self.destination),
            ("jobId", &self.job_id),
            ("jobIdFs", &self.job_id_fs),
            ("errorKind", &self.error_kind),
            ("since", &self.since),
            ("until", &self.until),
            ("endedSince", &self.ended_since),
            ("endedUntil", &self.ended_until),
        ];
        let others = others.into_iter().map(|(name, value)| (name, value.as_str()));
        ids.chain(others.filter(|(_, value)| !value.is_empty())).collect()
    }

    /// A filter by one field.
    pub(super) fn only(name: &str, value: &str) -> Self {
        let mut filter = Self::default();
        filter.set(name, value);
        filter
    }

    /// The list of callbacks with this filter, from `/ui/`.
    pub(super) fn list(&self) -> String {
        format!("callbacks?{}", self.query_string())
    }

    /// As a query string without `?`.
    pub(super) fn query_string(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(self.fields()).finish()
    }

    /// Whether anything but the state is selected.
    pub(super) fn selects(&self) -> bool {
        self.fields().iter().any(|(name, _)| *name != "state")
    }

    /// What it selects, seen from `now`.
    pub(super) fn selection(&self, now: Timestamp) -> Result<Selection, SelectError> {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let selectors = Selectors {
            destination: given(&self.destination),
            job_id: given(&self.job_id),
            job_id_fs: given(&self.job_id_fs),
            error_kind: given(&self.error_kind),
            since: given(&self.since),
            until: given(&self.until),
            ended_since: given(&self.ended_since),
            ended_until: given(&self.ended_until),
        };
        let ids = self.ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
        Ok(Selection { ids, ..selectors.parse(now)? })
    }

    /// The state, if one is given.
    pub(super) fn state(&self) -> Result<Option<StateName>, SelectError> {
        (!self.state.is_empty()).then(|| select::parse_state(&self.state)).transpose()
    }

    /// The query of one page, seen from `now`.
    pub(super) fn query(&self, now: Timestamp) -> Result<outbox::Query, SelectError> {
        let cursor = (!self.cursor.is_empty()).then(|| self.cursor.parse()).transpose()?;
        Ok(outbox::Query {
            state: self.state()?,
            cursor,
            limit: PAGE,
            ..self.selection(now)?.query()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_round_trips_through_its_query_string() {
        let mut filter = Filter::default();
        let all = ["state", "destination", "jobId", "jobIdFs", "errorKind", "since", "until"];
        let all = all.into_iter().chain(["endedSince", "endedUntil"]);
        for name in all {
            assert!(filter.set(name, &format!(" {name}&=% ä ")));
        }
        assert!(filter.set("id", "1") && filter.set("id", "2") && !filter.set("other", "1"));
        let mut again = Filter::default();
        for (name, value) in form_urlencoded::parse(filter.query_string().as_bytes()) {
            assert!(again.set(&name, &value));
        }
        assert_eq!(again, filter);
    }
}
