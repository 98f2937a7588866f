//! The page of a job: `dpfTrackerUrl`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters that are not escaped in a tracker URL: the unreserved characters of RFC 3986.
pub(super) const TRACKER: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The URL of a job's page at DPF Tracker.
pub const DEFAULT_TRACKER_TEMPLATE: &str = "http://{host}:9125/cgi-bin/dpftracker?job={jobIdFs}";

/// A tracker template with `{host}` filled in, percent-encoded: this machine's name.
pub fn tracker_template(template: &str, host: &str) -> String {
    template.replace("{host}", &utf8_percent_encode(host, TRACKER).to_string())
}

/// Fills `{jobId}` and `{jobIdFs}` into a tracker template, percent-encoded.
pub fn tracker_url(template: &str, job_id: &str, job_id_fs: &str) -> String {
    let encode = |text| utf8_percent_encode(text, TRACKER).to_string();
    let (job_id, job_id_fs) = (encode(job_id), encode(job_id_fs));
    // In parts, so that a value is never interpreted as part of the template.
    let pieces: Vec<_> =
        template.split("{jobId}").map(|piece| piece.replace("{jobIdFs}", &job_id_fs)).collect();
    pieces.join(&job_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tracker_template_is_filled_in_percent_encoded() {
        assert_eq!(
            tracker_url("http://t/?a={jobId}&b={jobIdFs}&c={other}", "4 7/{jobIdFs}", "2016"),
            "http://t/?a=4%207%2F%7BjobIdFs%7D&b=2016&c={other}"
        );
        assert_eq!(tracker_url("{jobId{jobId}}", "Fs", "2016"), "{jobIdFs}");
    }
}
