use std::fmt;
use std::io;

/// An error of a call, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault(pub i32);

impl Fault {
    /// "Would block": nothing to do now, and an event will tell when there is.
    pub const WOULD_BLOCK: Self = Self(libc::EAGAIN);
    /// A signal interrupted the call.
    pub const INTERRUPTED: Self = Self(libc::EINTR);

    /// The error as calls return it.
    pub fn to_error(self) -> io::Error {
        io::Error::from_raw_os_error(self.0)
    }
}

impl From<&io::Error> for Fault {
    /// An error without a number gets that of its kind.
    fn from(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(match error.kind() {
            io::ErrorKind::WouldBlock => libc::EAGAIN,
            io::ErrorKind::Interrupted => libc::EINTR,
            io::ErrorKind::BrokenPipe => libc::EPIPE,
            io::ErrorKind::NotConnected => libc::ENOTCONN,
            io::ErrorKind::ConnectionReset => libc::ECONNRESET,
            io::ErrorKind::InvalidInput => libc::EINVAL,
            io::ErrorKind::Unsupported => libc::EOPNOTSUPP,
            io::ErrorKind::OutOfMemory => libc::ENOMEM,
            _ => libc::EIO,
        }))
    }
}

impl fmt::Display for Fault {
    /// The name that manual pages use, for the errors that a loop meets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::EAGAIN => "would block",
            libc::EINTR => "EINTR",
            libc::EPIPE => "EPIPE",
            libc::ENOTCONN => "ENOTCONN",
            libc::ECONNRESET => "ECONNRESET",
            libc::ECONNABORTED => "ECONNABORTED",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::EHOSTUNREACH => "EHOSTUNREACH",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::EMFILE => "EMFILE",
            libc::ENFILE => "ENFILE",
            libc::ENOBUFS => "ENOBUFS",
            libc::ENOMEM => "ENOMEM",
            libc::ENOSPC => "ENOSPC",
            libc::EINVAL => "EINVAL",
            libc::EPROTO => "EPROTO",
            libc::EPERM => "EPERM",
            number => return write!(f, "errno {number}"),
        };
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_number_or_gets_that_of_its_kind() {
        for number in [
            libc::EAGAIN,
            libc::EINTR,
            libc::EPIPE,
            libc::ENOTCONN,
            libc::ECONNRESET,
            libc::EINVAL,
            libc::EOPNOTSUPP,
            libc::ENOMEM,
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(Fault::from(&error), Fault(number));
            assert_eq!(Fault::from(&io::Error::from(error.kind())), Fault(number), "{error}");
        }
        assert_eq!(Fault::from(&io::Error::other("without a number")), Fault(libc::EIO));
    }

    #[test]
    fn an_error_is_called_by_its_name() {
        assert_eq!(Fault::WOULD_BLOCK.to_string(), "would block");
        assert_eq!(Fault(libc::ECONNRESET).to_string(), "ECONNRESET");
        assert_eq!(Fault(4711).to_string(), "errno 4711");
    }
}
