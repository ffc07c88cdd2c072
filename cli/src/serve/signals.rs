//! Signals that ask the process to end.

use tokio::signal::unix::{SignalKind, signal};

use crate::fault::Exit;

/// Waits for SIGTERM or SIGINT. A second one ends the process at once, with the exit code of a failure: nothing is lost
/// by that, since what was not committed is still in the log.
pub(crate) async fn stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be handled; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    };
    next().await;
    tokio::spawn(async move {
        next().await;
        tracing::warn!("second signal: ending at once");
        std::process::exit(Exit::Failed as i32);
    });
}
