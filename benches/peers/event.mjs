// The event of a job, and what its receiver is sent. They are the same for all systems.

/** The URL of a job's callback, and its body: the bytes that the service sends. */
export function callback(job, made, port) {
  return {
    url: `http://127.0.0.1:${port}/ourjobmanager/ourjobno/${job}`,
    body: {
      jobId: String(job),
      jobIdFs: String(made),
      jobState: 'FINISHED',
      exitStatus: 'OK',
      errorReason: null,
      dpfTrackerUrl: `http://dpfsrv03:9125/cgi-bin/dpftracker?job=${job}`,
    },
  };
}

/** The event that makes the service send that callback. */
export function event({ url, body }) {
  const { jobId, jobIdFs, exitStatus, dpfTrackerUrl } = body;
  const parameters = { DpfControlCallbackUrl: url };
  return { event: 'job_finished', jobId, jobIdFs, exitStatus, dpfTrackerUrl, parameters };
}
