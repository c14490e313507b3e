//! Listeners that a service manager opened and passed on (sd_listen_fds(3)).

use std::env;
use std::net::TcpListener;

use anyhow::{Context, Result, anyhow, ensure};
use listenfd::ListenFd;
use socket2::SockRef;

/// Names of descriptors (`FileDescriptorName=`) and what their listeners are for.
const NAMES: [(&str, Purpose); 2] =
    [("saltecho", Purpose::Service), ("saltecho-proxy", Purpose::Balancer)];

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The authenticated service.
    Service,
    /// The same for balancers, which send a PROXY header first.
    Balancer,
}

/// The listeners that were passed, each with its purpose.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) listeners: Vec<(TcpListener, Purpose)>,
}

impl Passed {
    /// Takes the listeners from the environment, if they are for this process. They are closed on
    /// execve(2) from now on.
    ///
    /// LISTEN_PID and LISTEN_FDS are removed, so there must not be a second thread yet, which might
    /// read the environment meanwhile.
    ///
    /// # Errors
    /// If a descriptor is anything but a listening TCP socket, or has a name without a purpose.
    pub(super) fn take() -> Result<Self> {
        let mut passed = Self::default();
        let Some(count) = count()? else { return Ok(passed) };
        let names = names(env::var("LISTEN_FDNAMES").ok().as_deref(), count)?;
        let mut descriptors = ListenFd::from_env();
        for (index, name) in names.iter().enumerate() {
            let listener = descriptors.take_tcp_listener(index).map_err(anyhow::Error::new);
            let listener = listener.and_then(|listener| {
                let listener = listener.context("there is no such descriptor")?;
                let listens = SockRef::from(&listener).is_listener()?;
                ensure!(listens, "it does not listen (the socket unit needs Accept=no)");
                Ok(listener)
            });
            let listener = listener.with_context(|| {
                format!(
                    "descriptor {} ({name}) that was passed cannot be served; the socket unit needs \
                     ListenStream= with an IP address and a port",
                    index + FIRST
                )
            })?;
            passed.listeners.push((listener, purpose(name)?));
        }
        Ok(passed)
    }
}

/// The number of the first descriptor (SD_LISTEN_FDS_START).
const FIRST: usize = 3;

/// The number of descriptors, if any were passed to this process and not to its parent.
fn count() -> Result<Option<usize>> {
    let (Ok(pid), Ok(count)) = (env::var("LISTEN_PID"), env::var("LISTEN_FDS")) else {
        return Ok(None);
    };
    if pid != std::process::id().to_string() {
        return Ok(None);
    }
    let number = count.parse::<u16>();
    let number = number.map_err(|_| anyhow!("LISTEN_FDS is {count:?}, not a number"))?;
    Ok(Some(number.into()).filter(|number| *number > 0))
}

/// The name of each descriptor.
fn names(names: Option<&str>, count: usize) -> Result<Vec<String>> {
    let Some(names) = names else { return Ok(vec![UNNAMED.to_owned(); count]) };
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    ensure!(
        names.len() == count,
        "LISTEN_FDNAMES has {} names for {count} descriptors",
        names.len()
    );
    Ok(names)
}

/// The name of a descriptor without one, as sd_listen_fds_with_names(3) has it.
const UNNAMED: &str = "unknown";

/// The purpose of a descriptor. Without a name it is the service; without `FileDescriptorName=` the
/// name is that of the socket unit.
fn purpose(name: &str) -> Result<Purpose> {
    if name.is_empty() || name == UNNAMED {
        return Ok(Purpose::Service);
    }
    let base = name.strip_suffix(".socket").unwrap_or(name);
    let known = NAMES.iter().find(|(known, _)| *known == base);
    known.map(|(_, purpose)| *purpose).ok_or_else(|| {
        let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
        anyhow!(
            "a descriptor named {name} was passed, and known are: {}; set FileDescriptorName= in \
             its socket unit",
            known.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_purposes() {
        for name in ["saltecho", "saltecho.socket", "unknown", ""] {
            assert_eq!(purpose(name).unwrap(), Purpose::Service, "{name}");
        }
        assert_eq!(purpose("saltecho-proxy").unwrap(), Purpose::Balancer);
        for name in ["http", "saltecho2", ".socket"] {
            let error = purpose(name).unwrap_err().to_string();
            assert!(error.contains("FileDescriptorName="), "{error}");
        }
    }

    #[test]
    fn each_descriptor_has_its_name() {
        assert_eq!(names(Some("a:"), 2).unwrap(), ["a", ""]);
        assert_eq!(names(None, 2).unwrap(), ["unknown", "unknown"]);
        assert!(names(Some("a"), 2).is_err());
    }
}
