//! The thread that reports the state of the service to the manager.

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::manager::{Control, Controls, Handler, Manager, Pace, State, Status};
use crate::service::{
    shutdown::{Observer, Started},
    signals::{Request, Requests},
};

/// Runs `serve`, which returns the service's exit code, and reports its state to the manager.
pub fn supervise(
    manager: &impl Manager,
    controls: Controls,
    pace: Pace,
    serve: impl FnOnce(Requests, &dyn Observer) -> u32,
) {
    let (requests, requested) = unbounded_channel();
    let progress = Progress { state: State::StartPending, checkpoint: 1, give_up: None };
    let supervisor = Supervisor { manager, requests, pace, progress: Mutex::new(progress) };
    supervisor.report(progress);
    let Controls(received, handler) = controls;
    let code = std::thread::scope(|scope| {
        let watcher = &supervisor;
        scope.spawn(move || watcher.watch(&received));
        // Even if it panics, the thread must end.
        let _end = End(handler);
        serve(Some(requested), &supervisor)
    });
    supervisor.enter(State::Stopped(code));
}

struct End(Handler);

impl Drop for End {
    fn drop(&mut self) {
        self.0.0.send(None).ok();
    }
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    state: State,
    checkpoint: u32,
    give_up: Option<Instant>,
}

struct Supervisor<'a, M> {
    manager: &'a M,
    requests: UnboundedSender<Request>,
    pace: Pace,
    progress: Mutex<Progress>,
}

impl<M: Manager> Supervisor<'_, M> {
    fn report(&self, Progress { state, checkpoint, .. }: Progress) {
        // On a busy machine, up to five checkpoints may be late.
        let wait_hint = if state.is_pending() { 5 * self.pace.checkpoint } else { Duration::ZERO };
        if let Err(error) = self.manager.report(Status { state, checkpoint, wait_hint }) {
            tracing::warn!(error.message = %error, "cannot report the state to the service manager");
        }
    }

    /// Changes the progress and reports it, in this order for all threads.
    fn change(&self, change: impl FnOnce(&mut Progress) -> bool) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if change(&mut progress) {
            self.report(*progress);
        }
    }

    fn enter(&self, state: State) {
        self.change(|progress| {
            let news = progress.state != state;
            if news {
                progress.state = state;
                progress.checkpoint = u32::from(state.is_pending());
            }
            news
        });
    }

    fn give_up_after(&self, duration: Duration) {
        self.change(|progress| {
            progress.give_up = Instant::now().checked_add(duration);
            false
        });
    }

    /// Passes controls on and makes checkpoints until the service has ended.
    fn watch(&self, controls: &Receiver<Option<Control>>) {
        loop {
            match controls.recv_timeout(self.pace.checkpoint) {
                Ok(Some(control)) => self.control(control),
                Ok(None) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.checkpoint(),
            }
        }
    }

    fn control(&self, control: Control) {
        let request = match control {
            Control::Stop | Control::PreShutdown => Request::Stop { within: None },
            Control::Shutdown => Request::Stop { within: Some(self.pace.short_grace) },
            Control::Reload => Request::Reload,
        };
        if request != Request::Reload {
            self.enter(State::StopPending);
            // Until the service announces how long the stop takes.
            self.give_up_after(self.pace.margin);
        }
        // The service may have ended.
        self.requests.send(request).ok();
    }

    fn checkpoint(&self) {
        let mut late = false;
        self.change(|progress| {
            late = progress.give_up.is_some_and(|end| Instant::now() > end);
            if late {
                // A stop was requested, so this is not an error after which the service would be restarted.
                (progress.state, progress.checkpoint) = (State::Stopped(0), 0);
            } else if progress.state.is_pending() {
                progress.checkpoint += 1;
            }
            late || progress.state.is_pending()
        });
        if late {
            tracing::error!(event.action = "stop-late", "the service does not stop; ending it");
            self.manager.give_up();
        }
    }
}

impl<M: Manager> Observer for Supervisor<'_, M> {
    fn ready(&self, _: &Started<'_>) {
        self.change(|progress| {
            // A stop may have been requested since.
            let news = progress.state == State::StartPending;
            if news {
                (progress.state, progress.checkpoint) = (State::Running, 0);
            }
            news
        });
    }

    fn stopping(&self, within: Duration) {
        self.enter(State::StopPending);
        self.give_up_after(within.saturating_add(self.pace.margin));
    }

    fn exits(&self) {
        self.enter(State::Stopped(0));
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{clock::Timestamp, datadir::Note};

    const PACE: Pace = Pace {
        checkpoint: Duration::from_millis(5),
        short_grace: Duration::from_millis(7),
        margin: Duration::from_millis(50),
    };

    #[derive(Default)]
    struct Told {
        statuses: Mutex<Vec<Status>>,
        given_up: Mutex<bool>,
    }

    impl Told {
        /// The states in order, each once, after a check of the checkpoints.
        fn states(&self) -> Vec<State> {
            let statuses = self.statuses.lock().unwrap();
            for pair in statuses.windows(2) {
                let [before, after] = pair else { unreachable!() };
                if before.state == after.state {
                    assert!(after.state.is_pending() && after.checkpoint > before.checkpoint);
                }
            }
            for status in &*statuses {
                assert_eq!(status.state.is_pending(), status.checkpoint > 0, "{status:?}");
                let hint =
                    if status.state.is_pending() { 5 * PACE.checkpoint } else { Duration::ZERO };
                assert_eq!(status.wait_hint, hint, "{status:?}");
            }
            let mut states: Vec<_> = statuses.iter().map(|it| it.state).collect();
            states.dedup();
            states
        }

        /// Waits for this number of reports of a state.
        fn wait_for(&self, state: State, times: usize) {
            let end = Instant::now() + Duration::from_secs(60);
            let count =
                || self.statuses.lock().unwrap().iter().filter(|it| it.state == state).count();
            while count() < times {
                assert!(Instant::now() < end, "{state:?}: {:?}", self.statuses);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Manager for Told {
        fn report(&self, status: Status) -> io::Result<()> {
            self.statuses.lock().unwrap().push(status);
            Ok(())
        }

        fn give_up(&self) {
            *self.given_up.lock().unwrap() = true;
        }
    }

    fn ready(observer: &dyn Observer) {
        let note = Note {
            pid: 1,
            address: ([127, 0, 0, 1], 1).into(),
            certificate: None,
            token_file: "token".into(),
            started_at: Timestamp::from_millis(0),
            version: String::new(),
        };
        observer.ready(&Started { note: &note, log_file: None });
    }

    use State::{Running, StartPending, StopPending, Stopped};

    #[test]
    fn a_start_and_a_stop_are_reported_with_checkpoints() {
        let told = Told::default();
        let (handler, controls) = Controls::new();
        supervise(&told, controls, PACE, |requests, observer| {
            told.wait_for(StartPending, 3);
            ready(observer);
            handler.control(Control::Reload);
            handler.control(Control::Stop);
            let mut requests = requests.unwrap();
            assert_eq!(requests.blocking_recv(), Some(Request::Reload));
            assert_eq!(requests.blocking_recv(), Some(Request::Stop { within: None }));
            observer.stopping(Duration::from_secs(60));
            told.wait_for(StopPending, 3);
            0
        });
        assert_eq!(told.states(), [StartPending, Running, StopPending, Stopped(0)]);
        assert!(!*told.given_up.lock().unwrap());
        // The receiver is gone.
        handler.control(Control::Stop);
    }

    #[test]
    fn a_start_that_fails_is_reported_with_its_code() {
        let told = Told::default();
        supervise(&told, Controls::new().1, PACE, |_, _| 2);
        assert_eq!(told.states(), [StartPending, Stopped(2)]);
    }

    #[test]
    fn a_service_that_is_stopped_while_it_starts_does_not_run() {
        let told = Told::default();
        let (handler, controls) = Controls::new();
        supervise(&told, controls, PACE, |_, observer| {
            handler.control(Control::Stop);
            told.wait_for(StopPending, 1);
            ready(observer);
            observer.exits();
            0
        });
        assert_eq!(told.states(), [StartPending, StopPending, Stopped(0)]);
    }

    #[test]
    fn shutdown_has_a_short_grace_and_preshutdown_the_whole_one() {
        for (control, within) in
            [(Control::PreShutdown, None), (Control::Shutdown, Some(PACE.short_grace))]
        {
            let told = Told::default();
            let (handler, controls) = Controls::new();
            supervise(&told, controls, PACE, |requests, observer| {
                ready(observer);
                handler.control(control);
                let request = requests.unwrap().blocking_recv();
                assert_eq!(request, Some(Request::Stop { within }));
                0
            });
            assert_eq!(told.states(), [StartPending, Running, StopPending, Stopped(0)]);
        }
    }

    #[test]
    fn a_service_that_does_not_stop_in_time_is_ended() {
        let told = Told::default();
        let (handler, controls) = Controls::new();
        let begin = Instant::now();
        let within = Duration::from_millis(100);
        supervise(&told, controls, PACE, |_, observer| {
            ready(observer);
            handler.control(Control::Stop);
            told.wait_for(StopPending, 1);
            observer.stopping(within);
            told.wait_for(Stopped(0), 1);
            1
        });
        assert!(begin.elapsed() > within + PACE.margin);
        assert_eq!(told.states(), [StartPending, Running, StopPending, Stopped(0), Stopped(1)]);
        assert!(*told.given_up.lock().unwrap());
    }

    #[test]
    fn a_start_that_hangs_is_ended_by_a_stop() {
        let told = Told::default();
        let (handler, controls) = Controls::new();
        supervise(&told, controls, PACE, |_, _| {
            handler.control(Control::Stop);
            told.wait_for(Stopped(0), 1);
            1
        });
        assert!(*told.given_up.lock().unwrap());
    }
}
