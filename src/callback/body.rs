//! The body of the PUT.

use serde::{Deserialize, Serialize};

/// State of the job, as the callback reports it (seed, "Data Delivery").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobState {
    /// The job waits for its client to fetch the result files.
    Sending,
    /// The job succeeded.
    Finished,
    /// The job failed.
    Error,
}

impl JobState {
    /// The word that goes into the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sending => "SENDING",
            Self::Finished => "FINISHED",
            Self::Error => "ERROR",
        }
    }
}

/// The JSON object of a callback: always these six keys, in this order (seed, "Data Delivery";
/// docs/receiving-callbacks.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Body {
    /// DPF's internal id of the job.
    pub job_id: String,
    /// Name of the job's directory.
    pub job_id_fs: String,
    /// State of the job.
    pub job_state: JobState,
    /// How the job ended; only when it ended.
    pub exit_status: Option<String>,
    /// The reason of the job's error, if one was given.
    pub error_reason: Option<String>,
    /// The page of the job in DPF Tracker.
    pub dpf_tracker_url: Option<String>,
}

impl Body {
    /// Size of its texts in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        let optional = [&self.exit_status, &self.error_reason, &self.dpf_tracker_url];
        let optional = optional.into_iter().flatten().map(String::len);
        self.job_id.len() + self.job_id_fs.len() + optional.sum::<usize>()
    }

    /// A body for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            job_id: "1".into(),
            job_id_fs: "2".into(),
            job_state: JobState::Sending,
            exit_status: None,
            error_reason: None,
            dpf_tracker_url: None,
        }
    }

    /// The bytes of the PUT.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings and an enum cannot fail to serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
