//! An operator who works during the load.

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    history::{Action, Call, wall},
    load::{RECENT, Stage},
};
use crate::support::{Api, PAUSE};

/// An operator, who cancels, replays, pauses, resumes and retries.
pub(super) fn operate(stage: &Stage, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut dead = u32::MAX;
    let mut next = Instant::now();
    while let Some((process, api)) = stage.api(dead) {
        if Instant::now() < next {
            std::thread::park_timeout(PAUSE);
            continue;
        }
        next = Instant::now() + PAUSE * random.u32(..6);
        if random.u8(..8) == 0 {
            if dead != process && !rule(stage, process, &api, &mut random) {
                dead = process;
            }
            continue;
        }
        let action = if random.bool() {
            cancel(stage, &api, &mut random)
        } else {
            replay(stage, &api, &mut random)
        };
        let Some(action) = action else { continue };
        // When a callback is replayed immediately, the next callback of its job is in flight, or about
        // to be.
        let back = match &action {
            Action::Cancel(id) if random.bool() => Some(Action::ReplayIds(vec![id.clone()])),
            _ => None,
        };
        for action in std::iter::once(action).chain(back) {
            if dead != process && !call(stage, process, &api, action) {
                dead = process;
            }
        }
    }
}

/// Pauses or resumes one of the destinations, or sends pending callbacks now. Returns `false` if no
/// answer came.
fn rule(stage: &Stage, process: u32, api: &Api, random: &mut fastrand::Rng) -> bool {
    let post = |path: &str, body: &Value| {
        api.ask("POST", path, "application/json", &body.to_string())
            .filter(|response| !stage.refuses(process, response))
    };
    let asked = if random.bool() {
        post("/v1/callbacks/retry-now", &json!({"filter": {"all": true}, "limit": 100}))
    } else {
        let Some(all) = api.ask("GET", "/v1/destinations", "", "") else { return false };
        let all = all.json();
        let names = all["destinations"].as_array().into_iter().flatten();
        let names = names.filter_map(|it| it["destination"].as_str());
        // A destination that can never be called cannot be paused.
        let names: Vec<_> = names.filter(|name| name.starts_with("http")).collect();
        if names.is_empty() {
            return true;
        }
        let one = names[random.usize(..names.len())];
        let path = ["/v1/destinations/pause", "/v1/destinations/resume"][random.usize(..2)];
        post(path, &json!({"destination": one}))
    };
    if let Some(answer) = asked.as_ref().filter(|answer| answer.status != 200) {
        let body = String::from_utf8_lossy(&answer.body);
        stage.history.fault(format!("an operator was answered {} {body}", answer.status));
    }
    asked.is_some()
}

/// Resumes all destinations.
pub(super) fn resume_all(api: &Api) {
    loop {
        let all = api.get("/v1/destinations").json();
        let paused = all["destinations"].as_array().unwrap().iter();
        let paused: Vec<_> = paused.filter(|it| it["state"] == "paused").collect();
        if paused.is_empty() {
            return;
        }
        for it in paused {
            api.post("/v1/destinations/resume", &json!({"destination": it["destination"]}));
        }
    }
}

/// Cancels a pending callback, or any known one.
fn cancel(stage: &Stage, api: &Api, random: &mut fastrand::Rng) -> Option<Action> {
    if random.bool() {
        let pending = api.ask("GET", "/v1/callbacks?state=pending&limit=200", "", "")?.json();
        let pending = pending["callbacks"].as_array()?;
        let place = (!pending.is_empty()).then(|| random.usize(..pending.len()))?;
        // Preferably a callback for which another one waits.
        let first = pending[place]["waitingFor"].as_str().or(pending[place]["id"].as_str())?;
        return Some(Action::Cancel(first.to_owned()));
    }
    let events = stage.history.events.lock().unwrap();
    let from = events.len().saturating_sub(RECENT);
    let place = (from < events.len()).then(|| random.usize(from..events.len()))?;
    events[place].id().map(|id| Action::Cancel(id.to_owned()))
}

/// Replays failed callbacks: one, some, or those of a job.
fn replay(stage: &Stage, api: &Api, random: &mut fastrand::Rng) -> Option<Action> {
    // Half of the time, choose a job with pending callbacks, so that the order matters.
    let mut filter = String::new();
    if random.bool() {
        let pending = api.ask("GET", "/v1/callbacks?state=pending&limit=100", "", "")?.json();
        let pending = pending["callbacks"].as_array()?;
        let place = (!pending.is_empty()).then(|| random.usize(..pending.len()))?;
        filter = format!("&jobId={}", pending[place]["jobId"].as_str()?);
    }
    let path = format!("/v1/callbacks?state=failed&limit=40{filter}");
    let failed = api.ask("GET", &path, "", "")?.json();
    let failed = failed["callbacks"].as_array()?;
    if failed.is_empty() {
        return None;
    }
    let mut one = || failed[random.usize(..failed.len())].clone();
    let id = |callback: &Value| callback["id"].as_str().unwrap().to_owned();
    Some(match (one(), one(), failed.len() % 4) {
        (first, _, 0 | 1) => Action::ReplayIds(vec![id(&first)]),
        (first, second, 2) => Action::ReplayIds(vec![id(&first), id(&second)]),
        (first, ..) if stage.forgets => Action::ReplayIds(vec![id(&first)]),
        (first, ..) => Action::ReplayJob(first["jobId"].as_str().unwrap().to_owned()),
    })
}

/// Makes the request and records its result; `false` if there was no answer.
pub(super) fn call(stage: &Stage, process: u32, api: &Api, action: Action) -> bool {
    let filter = match &action {
        Action::Cancel(_) => Value::Null,
        Action::ReplayIds(ids) => json!({"ids": ids}),
        Action::ReplayJob(job) => json!({"jobId": job}),
        Action::ReplayAll => json!({"all": true}),
    };
    let (sent, wall) = (stage.history.tick(), wall());
    let response = match &action {
        Action::Cancel(id) => api.ask("POST", &format!("/v1/callbacks/{id}/cancel"), "", ""),
        _ => {
            let body = json!({"filter": filter}).to_string();
            api.ask("POST", "/v1/callbacks/replay", "application/json", &body)
        }
    };
    let response = response.filter(|response| !stage.refuses(process, response));
    let answered = response.as_ref().map(|_| stage.history.tick());
    let status = response.as_ref().map_or(0, |it| it.status);
    let expected: &[u16] = match (&action, stage.forgets) {
        (Action::Cancel(_), false) => &[0, 200, 409],
        (Action::Cancel(_), true) => &[0, 200, 404, 409],
        _ => &[0, 200],
    };
    if !expected.contains(&status) {
        let body = response.as_ref().map(|it| String::from_utf8_lossy(&it.body).into_owned());
        stage.history.fault(format!("{action:?} was answered {status} {body:?}"));
    }
    let replayed = response
        .as_ref()
        .filter(|_| status == 200 && !matches!(action, Action::Cancel(_)))
        .map_or(0, |it| it.json()["replayed"].as_u64().unwrap());
    if !stage.forgets {
        let call = Call { action, sent, wall, answered, status, replayed };
        stage.history.calls.lock().unwrap().push(call);
    }
    response.is_some()
}
