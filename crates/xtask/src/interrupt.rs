//! SIGINT, SIGTERM and SIGHUP are noted, not obeyed at once: whoever waits for something looks here, returns
//! an error, and what was started is stopped on the way out.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    thread,
};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// Starts to note signals.
pub(crate) fn install() -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    let (mut int, mut term, mut hup) = {
        let _context = runtime.enter();
        let listen = |kind| signal(kind).context("listen for signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    let number = tokio::select! {
                        _ = int.recv() => libc::SIGINT,
                        _ = term.recv() => libc::SIGTERM,
                        _ = hup.recv() => libc::SIGHUP,
                    };
                    CAUGHT.store(number, Ordering::Relaxed);
                }
            });
        })
        .context("start signal thread")?;
    Ok(())
}

/// The signal that was caught, if any.
pub(crate) fn caught() -> Option<i32> {
    match CAUGHT.load(Ordering::Relaxed) {
        0 => None,
        number => Some(number),
    }
}

/// An error once a signal was caught.
pub(crate) fn check() -> anyhow::Result<()> {
    if let Some(number) = caught() {
        bail!("interrupted by signal {number}");
    }
    Ok(())
}
