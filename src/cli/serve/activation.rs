//! Listeners that a service manager opened and passed on (sd_listen_fds(3)).

use std::env;
use std::net::TcpListener;

use anyhow::{Context, Result, anyhow, ensure};
use listenfd::ListenFd;
use saltecho::server::AdminListener;
use socket2::SockRef;

/// Names of descriptors (`FileDescriptorName=`) and what their listeners are for.
const NAMES: [(&str, Purpose); 3] = [
    ("saltecho", Purpose::Service),
    ("saltecho-proxy", Purpose::Balancer),
    ("saltecho-admin", Purpose::Admin),
];

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The authenticated service.
    Service,
    /// The same for balancers, which send a PROXY header first.
    Balancer,
    /// The admin endpoint.
    Admin,
}

/// The listeners that were passed.
#[derive(Default)]
pub(super) struct Passed {
    /// Those of the service, and whether balancers use them.
    pub(super) listeners: Vec<(TcpListener, Purpose)>,
    pub(super) admin: Option<AdminListener>,
}

impl Passed {
    /// Takes the listeners from the environment, if they are for this process. They are closed on
    /// execve(2) from now on.
    ///
    /// LISTEN_PID and LISTEN_FDS are removed, so there must not be a second thread yet, which might
    /// read the environment meanwhile.
    ///
    /// # Errors
    /// If a descriptor is anything but a listening socket of TCP, or for the admin endpoint a Unix
    /// socket, or has a name without a purpose.
    pub(super) fn take() -> Result<Self> {
        let mut passed = Self::default();
        let Some(count) = count()? else { return Ok(passed) };
        let names = names(env::var("LISTEN_FDNAMES").ok().as_deref(), count)?;
        let mut descriptors = ListenFd::from_env();
        for (index, name) in names.iter().enumerate() {
            let cannot = || {
                format!(
                    "descriptor {} ({name}) that was passed cannot be served; the socket unit needs \
                     ListenStream= with an IP address and a port",
                    index + FIRST
                )
            };
            match purpose(name)? {
                Purpose::Admin => {
                    let listener = admin(&mut descriptors, index).with_context(cannot)?;
                    let is_first = passed.admin.replace(listener).is_none();
                    ensure!(is_first, "two sockets named {name} were passed: an endpoint has one");
                }
                purpose => {
                    let listener = tcp(&mut descriptors, index).with_context(cannot)?;
                    passed.listeners.push((listener, purpose));
                }
            }
        }
        Ok(passed)
    }
}

/// Takes a listener of TCP.
fn tcp(descriptors: &mut ListenFd, index: usize) -> Result<TcpListener> {
    let listener = descriptors.take_tcp_listener(index)?.context("there is no such descriptor")?;
    check_listens(&SockRef::from(&listener))?;
    Ok(listener)
}

/// Takes a listener of a Unix socket or of TCP. What is no Unix socket stays where it is.
fn admin(descriptors: &mut ListenFd, index: usize) -> Result<AdminListener> {
    let Ok(Some(listener)) = descriptors.take_unix_listener(index) else {
        return Ok(AdminListener::from_tcp(tcp(descriptors, index)?)?);
    };
    check_listens(&SockRef::from(&listener))?;
    Ok(AdminListener::from_unix(listener)?)
}

fn check_listens(socket: &SockRef<'_>) -> Result<()> {
    ensure!(socket.is_listener()?, "it does not listen (the socket unit needs Accept=no)");
    Ok(())
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
        assert_eq!(purpose("saltecho-admin.socket").unwrap(), Purpose::Admin);
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
