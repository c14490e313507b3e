//! A reload: the configuration and the key file are read again, checked, compared, and applied to the
//! running loops. A file with an error changes nothing.

use std::fmt;
use std::time::Duration;

use saltecho::server::Handle;

use super::settings::Fixed;
use super::{ServeArgs, Settings, cannot_build};
use crate::cli::config::Setting;
use crate::cli::failure::{Exit, Failure};
use crate::cli::log::{Level, Log};
use crate::cli::on_own_stack;

/// The keys that take effect in a running server. Every other needs a restart.
const LIVE: [&str; 20] = [
    "key-file",
    "allow-exposed-key",
    "allow-weak-key",
    "mac",
    "recv-size",
    "max-connections",
    "max-unauthenticated",
    "max-unauthenticated-per-source",
    "suspicion",
    "eviction-age",
    "trust",
    "distrust-loopback",
    "proxy-trust",
    "header-timeout",
    "auth-timeout",
    "idle-timeout",
    "send-timeout",
    "drain-delay",
    "drain-timeout",
    "spin",
];

/// The settings of a running server.
pub(super) struct Running {
    /// What the server was started with, and what it has been told since.
    settings: Vec<Setting>,
    fixed: Fixed,
    /// Whether the listeners were opened with keepalive.
    can_probe: bool,
    /// Whether there is a file to read again.
    has_configuration: bool,
    has_key_file: bool,
    drain_delay: Duration,
}

/// The result of a reload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Public names of the keys, if they come from a file.
    keys: Option<Vec<String>>,
    /// The settings that changed; `None` without a configuration.
    changed: Option<Vec<String>>,
    /// The settings that differ from the running server's until it is started again.
    waiting: Vec<String>,
}

impl Running {
    pub(super) fn new(args: &ServeArgs, settings: &Settings) -> Self {
        Self {
            settings: args.effective.settings.clone(),
            fixed: settings.fixed.clone(),
            can_probe: settings.config.keepalive.is_some(),
            has_configuration: args.effective.file.is_some(),
            has_key_file: args.keys.key_file.is_some(),
            drain_delay: settings.limits.drain_delay,
        }
    }

    /// Reads the configuration and the keys again, and applies to the loops what can change.
    ///
    /// # Errors
    /// If there is nothing to read, or something is wrong with it. Then nothing changes.
    pub(super) fn reload(&mut self, server: &Handle) -> Result<Report, Failure> {
        if !self.has_configuration && !self.has_key_file {
            let text = "there is no key file (-k) and no configuration (--config)";
            return Err(Failure::with_message(Exit::Usage, text.to_owned()));
        }
        let args = on_own_stack(ServeArgs::parse_again)??;
        if self.has_key_file && args.keys.key_file.is_none() {
            let text =
                "no key file is named any more, and only a restart goes back to the demo key";
            return Err(Failure::with_message(Exit::Usage, text.to_owned()));
        }
        // Also what needs a restart has to be right: it must not come up then.
        Settings::check(&args, self.fixed.passed.clone())?;
        let settings = Settings::with(&args, self.fixed.clone())?;
        server
            .reconfigure(&settings.config, &settings.limits, &settings.trusted, &settings.proxies)
            .map_err(|error| cannot_build(error, &settings))?;
        let (changed, waiting) = self.compare(&args.effective.settings);
        self.drain_delay = settings.limits.drain_delay;
        self.has_key_file = args.keys.key_file.is_some();
        Ok(Report {
            keys: self.has_key_file.then_some(settings.keys),
            changed: self.has_configuration.then_some(changed),
            waiting,
        })
    }

    /// What changed, and what needs a restart to change; remembers the former.
    fn compare(&mut self, new: &[Setting]) -> (Vec<String>, Vec<String>) {
        let (mut changed, mut waiting) = (Vec::new(), Vec::new());
        for (old, new) in self.settings.iter_mut().zip(new) {
            if old.value == new.value {
                continue;
            }
            let change = format!("{} {} -> {}", new.key, shown(old), shown(new));
            let is_live = match new.key.as_str() {
                // A listener that was opened without it has connections that cannot be probed.
                "keepalive" => self.can_probe,
                key => LIVE.contains(&key),
            };
            if is_live {
                changed.push(change);
                *old = new.clone();
            } else {
                waiting.push(change);
            }
        }
        (changed, waiting)
    }

    /// The time between a request to drain and the end of accepting.
    pub(super) fn drain_delay(&self) -> Duration {
        self.drain_delay
    }

    /// What to say before the error of a reload.
    pub(super) fn not_reloaded(&self) -> &'static str {
        match self.has_configuration {
            true => "configuration not reloaded, the old one stays in force",
            false => "keys not reloaded, the old ones stay valid",
        }
    }
}

/// A value without the quotes of a string.
fn shown(setting: &Setting) -> &str {
    setting.value.as_deref().map_or("(not set)", |value| value.trim_matches('"'))
}

impl Report {
    pub(super) fn log(&self, log: &Log) {
        for line in self.reloaded() {
            log.print(Level::Normal, line);
        }
        if let Some(line) = self.restart() {
            log.warn(line);
        }
    }

    fn reloaded(&self) -> impl Iterator<Item = String> {
        let keys = self.keys.as_ref().map(|keys| format!("keys reloaded: {}", keys.join(", ")));
        let changed = self.changed.as_ref().map(|changed| match changed.is_empty() {
            true => "configuration reloaded: no change".to_owned(),
            false => format!("configuration reloaded: {}", changed.join(", ")),
        });
        keys.into_iter().chain(changed)
    }

    fn restart(&self) -> Option<String> {
        let needs = || format!("a restart is needed for: {}", self.waiting.join(", "));
        (!self.waiting.is_empty()).then(needs)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.reloaded().chain(self.restart()).collect();
        f.write_str(&lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn settings(flags: &[&str]) -> Settings {
        let words = ["saltecho", "serve"].iter().chain(flags);
        let Command::Serve(args) = Cli::parse_from(words).command else { unreachable!() };
        Settings::check(&args, Vec::new()).unwrap()
    }

    /// Everything that a running loop is given.
    fn given(settings: &Settings) -> String {
        let Settings { config, limits, trusted, proxies, .. } = settings;
        format!("{config:?} {limits:?} {trusted:?} {proxies:?}")
    }

    #[test]
    fn each_live_key_is_a_flag_whose_value_reaches_the_loops() {
        let cli = Cli::command();
        let serve = cli.find_subcommand("serve").unwrap();
        let before = given(&settings(&[]));
        for key in LIVE.into_iter().chain(["keepalive"]) {
            assert!(serve.get_arguments().any(|arg| arg.get_long() == Some(key)), "{key}");
            let flag = match key {
                // These decide which file is read, and whether it may be.
                "key-file" | "allow-exposed-key" | "allow-weak-key" => continue,
                "distrust-loopback" => "--distrust-loopback".to_owned(),
                "mac" => "--mac=sha256".to_owned(),
                "trust" | "proxy-trust" => format!("--{key}=10.0.0.0/8"),
                "recv-size" | "max-connections" | "max-unauthenticated" => format!("--{key}=77"),
                "max-unauthenticated-per-source" => format!("--{key}=7"),
                _ => format!("--{key}=7s"),
            };
            assert_ne!(given(&settings(&[&flag])), before, "{key} changes nothing");
        }
    }
}
