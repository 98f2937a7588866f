//! A typical DPF callback and a successful attempt, shared by all benches.

use seal_dpf_urlcallback::{
    callback::{Body, Destination, JobState},
    clock::{Clock as _, SystemClock},
    outbox::{Attempt, NewCallback},
};

/// The callback of a job.
pub(crate) fn new(job: usize, to: &Destination) -> NewCallback {
    NewCallback {
        event_id: None,
        body: Body {
            job_id: job.to_string(),
            job_id_fs: format!("2016{job:014}"),
            job_state: JobState::Finished,
            exit_status: Some("OK".into()),
            error_reason: None,
            dpf_tracker_url: Some(format!(
                "http://dpfsrv03:9125/cgi-bin/dpftracker?job=2016{job:014}"
            )),
        },
        url: format!("http://127.0.0.1:8080/ourjobmanager/ourjobno/{job}").into(),
        destination: to.clone(),
        trace: None,
        refusal: None,
    }
}

/// A success.
pub(crate) fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        started_at: SystemClock.now(),
        duration_ms: 3,
        status: Some(200),
        error: None,
        peer: Some("127.0.0.1:8080".into()),
        response_excerpt: None,
    }
}
