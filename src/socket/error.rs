use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

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
    /// A number that is the resolver's and not the kernel's.
    Numbered { kind: ErrorKind, number: i32, text: Box<str> },
    /// An error raised by Python itself, without an errno.
    Raised { kind: ErrorKind, text: Cow<'static, str> },
    /// Several attempts failed, each with its own error.
    Group(Box<[Error]>),
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
    /// ECHILD.
    ChildProcessError,
    /// ECONNABORTED.
    ConnectionAbortedError,
    /// ECONNREFUSED.
    ConnectionRefusedError,
    /// ECONNRESET.
    ConnectionResetError,
    /// Python's `ExceptionGroup`, from
    /// [`create_connection_all_errors`](super::create_connection_all_errors) only; see
    /// [`Error::exceptions`].
    ExceptionGroup,
    /// EEXIST.
    FileExistsError,
    /// ENOENT: a Unix socket's path that does not exist.
    FileNotFoundError,
    /// A host name that cannot be resolved; its number is that of `getaddrinfo`, below zero.
    GaiError,
    /// EINTR: the hook of [`set_interrupt_hook`](super::set_interrupt_hook) ended a waiting call.
    /// Without a hook interrupted calls are repeated.
    InterruptedError,
    /// EISDIR.
    IsADirectoryError,
    /// An encoding or error handler that text files do not support.
    LookupError,
    /// A buffer that cannot be allocated.
    MemoryError,
    /// ENOTDIR: a Unix socket's path below something that is not a directory.
    NotADirectoryError,
    /// Every other errno, and a few errors of Python itself without one.
    OSError,
    /// A timeout, port, flow information or buffer size outside its range.
    OverflowError,
    /// EACCES, EPERM.
    PermissionError,
    /// ESRCH.
    ProcessLookupError,
    /// A timeout: Python's own without an errno, or the kernel's with ETIMEDOUT.
    TimeoutError,
    /// An argument of the wrong form for this address family or file.
    TypeError,
    /// Bytes that are not UTF-8, in a text file with strict errors.
    UnicodeDecodeError,
    /// A host name that is not ASCII.
    UnicodeError,
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
            Cause::Numbered { kind, .. } | Cause::Raised { kind, .. } => *kind,
            Cause::Group(_) => ErrorKind::ExceptionGroup,
            Cause::ShortWrite { .. } => ErrorKind::BlockingIOError,
        }
    }

    /// The exception's `errno`; `None` for an error that Python itself raises. A gaierror has the
    /// number of `getaddrinfo`, which is below zero.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Os { errno, .. } => Some(*errno),
            Cause::Numbered { number, .. } => Some(*number),
            Cause::Raised { .. } | Cause::Group(_) => None,
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
            Cause::Numbered { text, .. } => Cow::Borrowed(text),
            Cause::Raised { text, .. } => Cow::Borrowed(text),
            Cause::Group(errors) => {
                let plural = if errors.len() == 1 { "" } else { "s" };
                let count = errors.len();
                Cow::Owned(format!("create_connection failed ({count} sub-exception{plural})"))
            }
            Cause::ShortWrite { .. } => Cow::Borrowed("write could not complete without blocking"),
        }
    }

    /// Bytes of the failed call that a buffered writer took; only for `BlockingIOError` from its
    /// `write` or `flush`.
    pub fn characters_written(&self) -> Option<usize> {
        match &self.cause {
            Cause::ShortWrite { written } => Some(*written),
            _ => None,
        }
    }

    /// The members of an ExceptionGroup, in the order of the attempts; otherwise none.
    pub fn exceptions(&self) -> &[Self] {
        match &self.cause {
            Cause::Group(errors) => errors,
            _ => &[],
        }
    }

    pub(super) const fn raised(kind: ErrorKind, text: &'static str) -> Self {
        Self { cause: Cause::Raised { kind, text: Cow::Borrowed(text) } }
    }

    pub(super) const fn raised_with(kind: ErrorKind, text: String) -> Self {
        Self { cause: Cause::Raised { kind, text: Cow::Owned(text) } }
    }

    pub(super) fn group(errors: Vec<Self>) -> Self {
        Self { cause: Cause::Group(errors.into_boxed_slice()) }
    }

    pub(super) fn gai(number: i32, text: String) -> Self {
        let text = text.into_boxed_str();
        Self { cause: Cause::Numbered { kind: ErrorKind::GaiError, number, text } }
    }

    pub(super) const fn value(text: &'static str) -> Self {
        Self::raised(ErrorKind::ValueError, text)
    }

    pub(super) const fn no_memory() -> Self {
        Self::raised(ErrorKind::MemoryError, "the buffer cannot be allocated")
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

    /// An OSError of any class with `detail` behind its text; a gaierror becomes a plain OSError
    /// with the same number. Other errors stay as they are.
    pub(super) fn with_detail(self, detail: &str) -> Self {
        let kind = ErrorKind::OSError;
        let cause = match self.cause {
            Cause::Os { errno, .. } => Cause::Os { errno, detail: Some(detail.into()) },
            Cause::Numbered { number, text, .. } => {
                Cause::Numbered { kind, number, text: format!("{text} {detail}").into() }
            }
            Cause::Raised { kind: ErrorKind::OSError, text } => {
                Cause::Raised { kind, text: format!("{text} {detail}").into() }
            }
            cause => cause,
        };
        Self { cause }
    }

    /// Returns true if Python's class is OSError or derived from it, gaierror included.
    pub(super) fn is_os_error(&self) -> bool {
        match &self.cause {
            Cause::Os { .. } | Cause::Numbered { .. } | Cause::ShortWrite { .. } => true,
            Cause::Raised { kind, .. } => {
                matches!(kind, ErrorKind::OSError | ErrorKind::TimeoutError)
            }
            Cause::Group(_) => false,
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
            libc::ECHILD => Self::ChildProcessError,
            libc::ECONNABORTED => Self::ConnectionAbortedError,
            libc::ECONNREFUSED => Self::ConnectionRefusedError,
            libc::ECONNRESET => Self::ConnectionResetError,
            libc::EEXIST => Self::FileExistsError,
            libc::ENOENT => Self::FileNotFoundError,
            libc::EINTR => Self::InterruptedError,
            libc::EISDIR => Self::IsADirectoryError,
            libc::ENOTDIR => Self::NotADirectoryError,
            libc::ESRCH => Self::ProcessLookupError,
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
            Self::ChildProcessError => "ChildProcessError",
            Self::ConnectionAbortedError => "ConnectionAbortedError",
            Self::ConnectionRefusedError => "ConnectionRefusedError",
            Self::ConnectionResetError => "ConnectionResetError",
            Self::ExceptionGroup => "ExceptionGroup",
            Self::FileExistsError => "FileExistsError",
            Self::FileNotFoundError => "FileNotFoundError",
            Self::GaiError => "gaierror",
            Self::InterruptedError => "InterruptedError",
            Self::IsADirectoryError => "IsADirectoryError",
            Self::LookupError => "LookupError",
            Self::MemoryError => "MemoryError",
            Self::NotADirectoryError => "NotADirectoryError",
            Self::OSError => "OSError",
            Self::OverflowError => "OverflowError",
            Self::PermissionError => "PermissionError",
            Self::ProcessLookupError => "ProcessLookupError",
            Self::TimeoutError => "TimeoutError",
            Self::TypeError => "TypeError",
            Self::UnicodeDecodeError => "UnicodeDecodeError",
            Self::UnicodeError => "UnicodeError",
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
            Cause::Numbered { number, text, .. } => write!(f, "[Errno {number}] {text}"),
            Cause::Raised { .. } | Cause::Group(_) | Cause::ShortWrite { .. } => {
                f.write_str(&self.message())
            }
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
            (_, ErrorKind::OSError | ErrorKind::GaiError | ErrorKind::ExceptionGroup) => {
                io::ErrorKind::Other
            }
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// A descriptor that [`Socket::from_fd`](super::Socket::from_fd) refused, with the reason.
#[derive(Debug)]
pub struct FromFdError {
    error: Error,
    fd: OwnedFd,
}

impl FromFdError {
    pub(super) const fn new(error: Error, fd: OwnedFd) -> Self {
        Self { error, fd }
    }

    /// The reason.
    pub const fn error(&self) -> &Error {
        &self.error
    }

    /// The reason and the descriptor, which is otherwise closed when this is dropped.
    pub fn into_parts(self) -> (Error, OwnedFd) {
        (self.error, self.fd)
    }
}

impl fmt::Display for FromFdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for FromFdError {}

impl From<FromFdError> for Error {
    /// Closes the descriptor.
    fn from(refused: FromFdError) -> Self {
        refused.error
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

/// Python's `repr` of a short string, for error texts.
pub(super) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
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
            (libc::ECHILD, "ChildProcessError"),
            (libc::EEXIST, "FileExistsError"),
            (libc::EISDIR, "IsADirectoryError"),
            (libc::ENOTDIR, "NotADirectoryError"),
            (libc::ESRCH, "ProcessLookupError"),
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
        let in_use = Error::from(Errno::ADDRINUSE).with_detail("(here)");
        assert_eq!(in_use.to_string(), "[Errno 98] Address already in use (here)");
        let unknown = Error::gai(-2, "Name or service not known".into());
        assert_eq!(unknown.to_string(), "[Errno -2] Name or service not known");
        let unknown = unknown.with_detail("(there)");
        assert_eq!((unknown.kind(), unknown.errno()), (ErrorKind::OSError, Some(-2)));
        assert_eq!(unknown.to_string(), "[Errno -2] Name or service not known (there)");
        let group = Error::group(vec![Error::timed_out(), unknown]);
        assert_eq!(group.to_string(), "create_connection failed (2 sub-exceptions)");
        assert_eq!((group.kind().name(), group.exceptions().len()), ("ExceptionGroup", 2));
    }

    #[test]
    fn repr_quotes_as_python_does() {
        for (text, quoted) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("'\"", "'\\'\"'"),
            ("a\nb\\\0", "'a\\nb\\\\\\x00'"),
        ] {
            assert_eq!(repr(text), quoted);
        }
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
