//! The number of PUTs that SIGKILL repeats while a backlog is drained at full speed.

use anyhow::ensure;

use crate::{
    service::Service,
    stage::{Receiver, fill},
    table::Figures,
};

const KILLS: u64 = 20;
const BETWEEN: u64 = 10_000;

/// Kills the service repeatedly, and counts the PUTs that were received more than once.
pub(crate) fn run(figures: &mut Figures) -> anyhow::Result<()> {
    let count = usize::try_from((KILLS + 1) * BETWEEN)?;
    let mut receiver = Receiver::start()?;
    let mut service = Service::prepare()?;
    fill(&service, None, &[(0, receiver.port, 1, count)])?;
    for kill in 1..=KILLS {
        service.start()?;
        receiver.wait_for(kill * BETWEEN)?;
        service.kill()?;
    }
    service.start()?;
    let pending = || service.metric("urlcallback_callbacks{state=\"pending\"}");
    crate::clock::eventually("all are settled", || Ok((pending()? < 0.5).then_some(())))?;
    service.stop()?;
    let came = receiver.report()?.count;
    ensure!(came >= count as u64, "{came} of {count} came");
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = (came - count as u64) as f64 / KILLS as f64;
    figures.plain(
        &format!("repeated by each of {KILLS} kills, draining to 1 destination"),
        format!("{each:.1}"),
        "≤ 30",
    );
    Ok(())
}
