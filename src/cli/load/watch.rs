//! Upgrades of the server during a load, as its admin endpoint shows them.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use saltecho::load::report::Upgrade;

use crate::cli::address::AdminTarget;
use crate::cli::failure::Failure;
use crate::cli::http;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(100);
/// Time limit of a look.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

/// Watches an admin endpoint until it is finished.
pub(super) struct Watch {
    /// Ends the thread when it is dropped.
    end: Sender<()>,
    thread: JoinHandle<Vec<Upgrade>>,
}

impl Watch {
    /// Looks at the endpoint, and goes on looking. Times count from now on.
    ///
    /// # Errors
    /// If the endpoint cannot be asked.
    pub(super) fn start(target: &AdminTarget) -> Result<Self, Failure> {
        let mut generation = look(target)?.0;
        let (end, ended) = channel();
        let (target, start) = (Arc::new(target.clone()), Instant::now());
        let work = move || {
            let mut upgrades = Vec::new();
            loop {
                let is_last = ended.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout);
                // A server that has ended has no more upgrades.
                if let Ok((now, freeze)) = look(&target)
                    && now > generation
                {
                    generation = now;
                    upgrades.push(Upgrade { at: start.elapsed(), generation, freeze });
                }
                if is_last {
                    return upgrades;
                }
            }
        };
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(work);
        Ok(Self { end, thread: thread.context("cannot start a thread for --admin")? })
    }

    /// The upgrades since the start.
    pub(super) fn finish(self) -> Vec<Upgrade> {
        drop(self.end);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The generation of the server, and its last freeze.
fn look(target: &AdminTarget) -> Result<(u64, Duration), Failure> {
    let answer = http::ask(target, "GET", "/metrics", PATIENCE)?;
    let text = answer.content.text()?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok())
    };
    let generation = value("saltecho_upgrade_generation").unwrap_or(1.0);
    let freeze = value("saltecho_upgrade_last_freeze_seconds").unwrap_or(0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is a small count.
    let generation = generation as u64;
    Ok((generation, Duration::try_from_secs_f64(freeze).unwrap_or_default()))
}
