use std::borrow::Cow;
use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::python::TimeoutValueError;

/// Result of a socket or file call.
pub type Result<T> = std::result::Result<T, Error>;

/// An exception of Python's socket module: a class, an errno for some, and a text.
///
/// It converts to an [`io::Error`], but that type cannot express a timeout without an errno, nor
/// the number of bytes taken by a partial write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    /// An error of the kernel; the errno determines the class.
    Os { errno: i32, detail: Option<Box<str>> },
    /// An error raised by Python itself, without an errno.
    Raised { kind: ErrorKind, text: Cow<'static, str> },
    /// A buffered writer on a full non-blocking socket.
    ShortWrite { written: usize },
}

/// The Python class of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// EAGAIN, EALREADY, EINPROGRESS.
    BlockingIOError,
    /// EPIPE, ESHUTDOWN.
    BrokenPipeError,
    /// ECONNABORTED.
    ConnectionAbortedError,
    /// ECONNREFUSED.
    ConnectionRefusedError,
    /// ECONNRESET.
    ConnectionResetError,
    /// ENOENT: a Unix socket's path that does not exist.
    FileNotFoundError,
    /// A host name that cannot be resolved; the number of `getaddrinfo` is not available.
    GaiError,
    /// EINTR. Not seen in practice, since interrupted calls are repeated.
    InterruptedError,
    /// An encoding or error handler that text files do not support.
    LookupError,
    /// A buffer that cannot be allocated.
    MemoryError,
    /// Every other errno, and a few errors of Python itself without one.
    OSError,
    /// A timeout or a port outside its range.
    OverflowError,
    /// EACCES, EPERM.
    PermissionError,
    /// A timeout: Python's own without an errno, or the kernel's with ETIMEDOUT.
    TimeoutError,
    /// An argument of the wrong form for this address family or file.
    TypeError,
    /// Bytes that are not UTF-8, in a text file with strict errors.
    UnicodeDecodeError,
    /// `io.UnsupportedOperation`: reading a writer, writing a reader, a missing facility.
    UnsupportedOperation,
    /// An argument out of range, or a closed file.
    ValueError,
}

impl Error {
    /// The Python class.
    pub fn kind(&self) -> ErrorKind {
        match &self.cause {
            Cause::Os { errno, .. } => ErrorKind::from_errno(*errno),
            Cause::Raised { kind, .. } => *kind,
            Cause::ShortWrite { .. } => ErrorKind::BlockingIOError,
        }
    }

    /// The exception's `errno`; `None` for an error that Python itself raises.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Os { errno, .. } => Some(*errno),
            Cause::Raised { .. } => None,
            Cause::ShortWrite { .. } => Some(libc::EAGAIN),
        }
    }

    /// The exception's text without its number: `strerror` for an error of the kernel.
    pub fn message(&self) -> Cow<'_, str> {
        match &self.cause {
            Cause::Os { errno, detail } => {
                let text = strerror(*errno);
                Cow::Owned(
                    detail.as_ref().map_or(text.clone(), |detail| format!("{text} {detail}")),
                )
            }
            Cause::Raised { text, .. } => Cow::Borrowed(text),
            Cause::ShortWrite { .. } => Cow::Borrowed("write could not complete without blocking"),
        }
    }

    /// Bytes of the failed call that a buffered writer took; only for `BlockingIOError` from its
    /// `write` or `flush`.
    pub fn characters_written(&self) -> Option<usize> {
        match &self.cause {
            Cause::ShortWrite { written } => Some(*written),
            Cause::Os { .. } | Cause::Raised { .. } => None,
        }
    }

    pub(super) const fn raised(kind: ErrorKind, text: &'static str) -> Self {
        Self { cause: Cause::Raised { kind, text: Cow::Borrowed(text) } }
    }

    pub(super) const fn raised_with(kind: ErrorKind, text: String) -> Self {
        Self { cause: Cause::Raised { kind, text: Cow::Owned(text) } }
    }

    pub(super) const fn value(text: &'static str) -> Self {
        Self::raised(ErrorKind::ValueError, text)
    }

    pub(super) const fn unsupported(text: &'static str) -> Self {
        Self::raised(ErrorKind::UnsupportedOperation, text)
    }

    /// Python's own timeout. Unlike ETIMEDOUT it has no errno.
    pub(super) const fn timed_out() -> Self {
        Self::raised(ErrorKind::TimeoutError, "timed out")
    }

    pub(super) const fn short_write(written: usize) -> Self {
        Self { cause: Cause::ShortWrite { written } }
    }

    /// The same error, its text followed by `detail`. Errors without an errno stay as they are.
    pub(super) fn with_detail(self, detail: String) -> Self {
        match self.cause {
            Cause::Os { errno, .. } => {
                Self { cause: Cause::Os { errno, detail: Some(detail.into_boxed_str()) } }
            }
            Cause::Raised { .. } | Cause::ShortWrite { .. } => self,
        }
    }

    /// Python's `_blocking_errnos`, the errors that a raw file turns into `None`.
    pub(super) fn is_would_block(&self) -> bool {
        self.errno() == Some(libc::EAGAIN)
    }
}

impl ErrorKind {
    /// The class that `OSError` picks for this errno.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EAGAIN | libc::EALREADY | libc::EINPROGRESS => Self::BlockingIOError,
            libc::EPIPE | libc::ESHUTDOWN => Self::BrokenPipeError,
            libc::ECONNABORTED => Self::ConnectionAbortedError,
            libc::ECONNREFUSED => Self::ConnectionRefusedError,
            libc::ECONNRESET => Self::ConnectionResetError,
            libc::ENOENT => Self::FileNotFoundError,
            libc::EINTR => Self::InterruptedError,
            libc::EACCES | libc::EPERM => Self::PermissionError,
            libc::ETIMEDOUT => Self::TimeoutError,
            _ => Self::OSError,
        }
    }

    /// The class's name in Python.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlockingIOError => "BlockingIOError",
            Self::BrokenPipeError => "BrokenPipeError",
            Self::ConnectionAbortedError => "ConnectionAbortedError",
            Self::ConnectionRefusedError => "ConnectionRefusedError",
            Self::ConnectionResetError => "ConnectionResetError",
            Self::FileNotFoundError => "FileNotFoundError",
            Self::GaiError => "gaierror",
            Self::InterruptedError => "InterruptedError",
            Self::LookupError => "LookupError",
            Self::MemoryError => "MemoryError",
            Self::OSError => "OSError",
            Self::OverflowError => "OverflowError",
            Self::PermissionError => "PermissionError",
            Self::TimeoutError => "TimeoutError",
            Self::TypeError => "TypeError",
            Self::UnicodeDecodeError => "UnicodeDecodeError",
            Self::UnsupportedOperation => "UnsupportedOperation",
            Self::ValueError => "ValueError",
        }
    }
}

impl fmt::Display for Error {
    /// Python's `str(exception)`: `[Errno 104] Connection reset by peer`, or the bare text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Os { errno, .. } => write!(f, "[Errno {errno}] {}", self.message()),
            Cause::Raised { .. } | Cause::ShortWrite { .. } => f.write_str(&self.message()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self { cause: Cause::Os { errno: errno.raw_os_error(), detail: None } }
    }
}

impl From<TimeoutValueError> for Error {
    fn from(error: TimeoutValueError) -> Self {
        let kind = match error {
            TimeoutValueError::Negative | TimeoutValueError::NotANumber => ErrorKind::ValueError,
            TimeoutValueError::Overflow => ErrorKind::OverflowError,
        };
        Self::raised_with(kind, error.to_string())
    }
}

impl From<Error> for io::Error {
    /// A plain error of the kernel keeps its errno; any other error is wrapped, and
    /// [`io::Error::get_ref`] returns the [`Error`].
    fn from(error: Error) -> Self {
        let kind = match (&error.cause, error.kind()) {
            (Cause::Os { errno, detail: None }, _) => return Self::from_raw_os_error(*errno),
            (Cause::Os { errno, .. }, _) => Self::from_raw_os_error(*errno).kind(),
            (_, ErrorKind::TimeoutError) => io::ErrorKind::TimedOut,
            (_, ErrorKind::BlockingIOError) => io::ErrorKind::WouldBlock,
            (_, ErrorKind::UnsupportedOperation) => io::ErrorKind::Unsupported,
            (_, ErrorKind::UnicodeDecodeError) => io::ErrorKind::InvalidData,
            (_, ErrorKind::MemoryError) => io::ErrorKind::OutOfMemory,
            (_, ErrorKind::OSError | ErrorKind::GaiError) => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// The kernel's text for an errno, without the number that the standard library appends.
fn strerror(errno: i32) -> String {
    let mut text = io::Error::from_raw_os_error(errno).to_string();
    if let Some(end) = text.rfind(" (os error ") {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_follows_from_the_number() {
        for (errno, name) in [
            (libc::EAGAIN, "BlockingIOError"),
            (libc::EALREADY, "BlockingIOError"),
            (libc::EINPROGRESS, "BlockingIOError"),
            (libc::EPIPE, "BrokenPipeError"),
            (libc::ESHUTDOWN, "BrokenPipeError"),
            (libc::ECONNABORTED, "ConnectionAbortedError"),
            (libc::ECONNREFUSED, "ConnectionRefusedError"),
            (libc::ECONNRESET, "ConnectionResetError"),
            (libc::ENOENT, "FileNotFoundError"),
            (libc::EINTR, "InterruptedError"),
            (libc::ETIMEDOUT, "TimeoutError"),
            (libc::EACCES, "PermissionError"),
            (libc::EPERM, "PermissionError"),
            (libc::EBADF, "OSError"),
        ] {
            let error = Error::from(Errno::from_raw_os_error(errno));
            assert_eq!(error.kind().name(), name);
            assert_eq!(error.errno(), Some(errno));
        }
    }

    #[test]
    fn display_matches_pythons_str() {
        let reset = Error::from(Errno::CONNRESET);
        assert_eq!(reset.to_string(), "[Errno 104] Connection reset by peer");
        assert_eq!(Error::timed_out().to_string(), "timed out");
        let in_use = Error::from(Errno::ADDRINUSE).with_detail("(here)".into());
        assert_eq!(in_use.to_string(), "[Errno 98] Address already in use (here)");
    }

    #[test]
    fn a_timeout_is_not_etimedout() {
        let ours = Error::timed_out();
        let kernels = Error::from(Errno::TIMEDOUT);
        assert_eq!((ours.kind(), ours.errno()), (ErrorKind::TimeoutError, None));
        assert_eq!((kernels.kind(), kernels.errno()), (ErrorKind::TimeoutError, Some(110)));
        let (ours, kernels) = (io::Error::from(ours), io::Error::from(kernels));
        assert_eq!((ours.kind(), ours.raw_os_error()), (io::ErrorKind::TimedOut, None));
        assert_eq!((kernels.kind(), kernels.raw_os_error()), (io::ErrorKind::TimedOut, Some(110)));
    }

    #[test]
    fn an_io_error_contains_the_original() {
        let error = Error::short_write(7);
        let io_error = io::Error::from(error.clone());
        assert_eq!(io_error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(io_error.get_ref().and_then(|e| e.downcast_ref::<Error>()), Some(&error));
        let value = io::Error::from(Error::value("negative buffersize in recv"));
        assert_eq!(value.kind(), io::ErrorKind::InvalidInput);
    }
}
