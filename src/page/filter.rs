//! The filter of a view. It is in the URL, so that a view can be shared.

use url::form_urlencoded;

use super::{
    context::{Page, Refusal},
    words::Words,
};
use crate::{
    callback::{Destination, redact_url},
    clock::Timestamp,
    outbox::{self, Criteria, DestinationQuery, ListedState, Outbox, OutboxError},
    recent,
    select::{self, SelectError, Selection, Selectors},
};

/// Number of callbacks on a page.
const PAGE: usize = 50;

/// Maximum number of destinations that are searched for a host.
const HOSTS: usize = 200;

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

    /// Names and values of the fields that are set, without the cursor.
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

    /// The same, limited to callbacks in this state.
    pub(super) fn and_state(&self, state: &str) -> Self {
        Self { state: state.to_owned(), ..self.clone() }
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

    /// The selectors. Relative times are relative to `now`.
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
        let stage = self.state()?.and_then(ListedState::stage);
        Ok(Selection { ids, criteria: Criteria { stage, ..selectors.parse(now)? } })
    }

    /// Replaces a host, or a host and a port, with a destination: the only one with callbacks, or else the
    /// one with the scheme `http`.
    pub(super) async fn complete(
        &mut self,
        outbox: &dyn Outbox,
        page: &Page,
    ) -> Result<(), FilterError> {
        let wanted = self.destination.trim_end_matches('/').to_ascii_lowercase();
        if wanted.is_empty() || wanted.contains("://") {
            return Ok(());
        }
        let query = DestinationQuery {
            part: Some(wanted.clone()),
            idle: recent::destinations(),
            limit: HOSTS,
            ..DestinationQuery::default()
        };
        let mut found = outbox.destinations(query, page.now).await?.destinations;
        found.retain(|it| {
            let name = it.destination.as_str();
            it.destination.host() == wanted
                || name.split_once("://").is_some_and(|(_, rest)| rest == wanted)
        });
        match found.as_slice() {
            [] => {
                let http = Destination::parse(&format!("http://{wanted}"));
                let http =
                    http.ok_or_else(|| SelectError::Destination(redact_url(&self.destination)))?;
                http.as_str().clone_into(&mut self.destination);
            }
            [one] => one.destination.as_str().clone_into(&mut self.destination),
            several => {
                let names: Vec<_> = several.iter().map(|it| it.destination.as_str()).collect();
                return Err(FilterError::Several(names.join(", ")));
            }
        }
        Ok(())
    }

    /// The invalid field with an explanation; `None` if it is not a field of the form.
    pub(super) fn invalid(&self, error: &SelectError, words: &Words) -> Option<Invalid> {
        let (field, why, given) = match error {
            SelectError::State(given) => ("state", words.invalid_state, given),
            SelectError::Destination(given) => ("destination", words.invalid_destination, given),
            SelectError::ErrorKind(given) => ("errorKind", words.invalid_error_kind, given),
            SelectError::Time(given) => {
                let times = ["since", "until", "endedSince", "endedUntil"];
                let fields = self.fields();
                let is = |name: &&&str| fields.contains(&(**name, given.as_str()));
                (*times.iter().find(is)?, words.invalid_time, given)
            }
            SelectError::Id(_) | SelectError::Nothing | SelectError::Limit => return None,
        };
        let label = words.of_field(field);
        Some(Invalid { field, why: format!("{label}: {why} ({given})") })
    }

    /// The state, if one is given.
    pub(super) fn state(&self) -> Result<Option<ListedState>, SelectError> {
        (!self.state.is_empty()).then(|| select::parse_state(&self.state)).transpose()
    }

    /// The query of one page. Relative times are relative to `now`.
    pub(super) fn query(&self, now: Timestamp) -> Result<outbox::Query, SelectError> {
        let cursor = (!self.cursor.is_empty()).then(|| self.cursor.parse()).transpose()?;
        Ok(outbox::Query {
            state: self.state()?.map(ListedState::state),
            cursor,
            limit: PAGE,
            criteria: self.selection(now)?.criteria,
            oldest_first: false,
        })
    }
}

/// An invalid field of the form.
pub(super) struct Invalid {
    pub(super) field: &'static str,
    pub(super) why: String,
}

/// Why a filter cannot be used.
pub(super) enum FilterError {
    /// A field is invalid.
    Select(SelectError),
    /// More than one destination has this host.
    Several(String),
    /// An error of the outbox.
    Outbox(OutboxError),
}

impl From<SelectError> for FilterError {
    fn from(error: SelectError) -> Self {
        Self::Select(error)
    }
}

impl From<OutboxError> for FilterError {
    fn from(error: OutboxError) -> Self {
        Self::Outbox(error)
    }
}

impl FilterError {
    /// The page with this error.
    pub(super) fn refusal(&self, page: &Page) -> Refusal {
        match self {
            Self::Select(error) => page.invalid(error),
            Self::Several(names) => page.invalid(&format!("{} {names}", page.words.several_hosts)),
            Self::Outbox(error) => page.failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_round_trips_through_its_query_string() {
        let mut filter = Filter::default();
        let all = [
            "state",
            "destination",
            "jobId",
            "jobIdFs",
            "errorKind",
            "since",
            "until",
            "endedSince",
            "endedUntil",
        ];
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
