//! Notifications to systemd (`Type=notify`, `sd_notify(3)`): ready, watchdog, status, stopping. Without
//! systemd they do nothing.

#[cfg(target_os = "linux")]
mod linux {
    use std::{sync::Arc, time::Duration};

    use sd_notify::NotifyState;
    use tokio::time::timeout;

    use crate::{health::Health, outbox::Outbox};

    /// How often the status line of `systemctl status` is updated without a watchdog.
    const STATUS_PAUSE: Duration = Duration::from_secs(10);

    fn notify(state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(error.message = %error, "cannot notify systemd");
        }
    }

    /// The service accepts events.
    pub(in crate::service) fn ready() {
        notify(&[NotifyState::Ready]);
    }

    /// Shutdown begins.
    pub(in crate::service) fn stopping() {
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Notifies the watchdog at its interval, but only while the service is alive: a stopped store is
    /// recovered by a restart.
    pub(in crate::service) async fn watch(health: Health, outbox: Arc<dyn Outbox>) {
        let clock = outbox.clock();
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        // Three times as often, so that one slow answer does not cause a restart.
        let pause = sd_notify::watchdog_enabled().map_or(STATUS_PAUSE, |limit| limit / 3);
        loop {
            match health.alive().await {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                Err(reason) => tracing::error!(
                    event.action = "watchdog",
                    error.message = %reason,
                    "the service is not alive; not notifying the watchdog"
                ),
            }
            if !health.is_draining()
                && let Ok(Ok(queue)) = timeout(pause / 3, outbox.summary(clock.now())).await
            {
                let state = match health.ready().await {
                    Ok(()) => "accepting events".into(),
                    Err(reason) => format!("not accepting events: {reason}"),
                };
                let status = format!(
                    "{state}; pending {}, due {}, in flight {}, failed {}, open destinations {}",
                    queue.pending, queue.due, queue.in_flight, queue.failed, queue.open_count
                );
                notify(&[NotifyState::Status(&status)]);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{ready, stopping, watch};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::sync::Arc;

    use crate::{health::Health, outbox::Outbox};

    /// Does nothing.
    pub(in crate::service) fn ready() {}

    /// Does nothing.
    pub(in crate::service) fn stopping() {}

    /// Does nothing.
    pub(in crate::service) async fn watch(_: Health, _: Arc<dyn Outbox>) {}
}

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{ready, stopping, watch};
