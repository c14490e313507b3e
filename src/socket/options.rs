use std::os::fd::AsFd;

use super::{Error, ErrorKind, Result, Socket};
use crate::rawopt;

/// Value for [`Socket::setsockopt`], in Python's three forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionArg<'a> {
    /// Four bytes in native byte order.
    Int(i32),
    /// Raw bytes, for options that are structures.
    Bytes(&'a [u8]),
    /// A null pointer with this length, Python's `setsockopt(level, option, None, optlen)`.
    Null(u32),
}

/// Result of [`Socket::getsockopt_len`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// The integer form, for a length of 0.
    Int(i32),
    /// The bytes written by the kernel, up to the requested length.
    Bytes(Vec<u8>),
}

/// Python's limit on `buflen`.
const MAX_BUFLEN: usize = 1024;

impl Socket {
    /// `getsockopt(level, option)`: the option as an integer. Never waits.
    ///
    /// Reading SO_ERROR clears it: `recv` does not report the same reset again.
    ///
    /// # Errors
    /// EBADF on a closed socket, ENOPROTOOPT for an unknown option.
    pub fn getsockopt(&self, level: i32, option: i32) -> Result<i32> {
        let (fd, _) = self.inner.begin()?;
        let mut bytes = [0; size_of::<i32>()];
        rawopt::get(fd.as_fd(), level, option, &mut bytes)?;
        Ok(i32::from_ne_bytes(bytes))
    }

    /// `getsockopt(level, option, buflen)`: up to `buflen` bytes; 0 for the integer form.
    ///
    /// # Errors
    /// OSError without an errno for a length outside 0 to 1024, checked before the descriptor;
    /// otherwise as [`getsockopt`](Self::getsockopt).
    pub fn getsockopt_len(&self, level: i32, option: i32, buflen: i32) -> Result<OptionValue> {
        let length = match usize::try_from(buflen) {
            Ok(0) => return self.getsockopt(level, option).map(OptionValue::Int),
            Ok(length) if length <= MAX_BUFLEN => length,
            _ => {
                return Err(Error::raised(ErrorKind::OSError, "getsockopt buflen out of range"));
            }
        };
        let (fd, _) = self.inner.begin()?;
        let mut bytes = vec![0; length];
        let length = rawopt::get(fd.as_fd(), level, option, &mut bytes)?;
        bytes.truncate(length);
        Ok(OptionValue::Bytes(bytes))
    }

    /// `setsockopt(level, option, value)`: an integer, bytes, or a null pointer. Never waits.
    ///
    /// Too few bytes are EINVAL; excess bytes are accepted. Options that contain pointers (some of
    /// netfilter's) are the caller's responsibility.
    ///
    /// # Errors
    /// EBADF on a closed socket, and the kernel's for the value.
    pub fn setsockopt<'a>(
        &self,
        level: i32,
        option: i32,
        value: impl Into<OptionArg<'a>>,
    ) -> Result<()> {
        let (fd, _) = self.inner.begin()?;
        Ok(match value.into() {
            OptionArg::Int(value) => rawopt::set(fd.as_fd(), level, option, &value.to_ne_bytes()),
            OptionArg::Bytes(bytes) => rawopt::set(fd.as_fd(), level, option, bytes),
            OptionArg::Null(length) => rawopt::set_null(fd.as_fd(), level, option, length),
        }?)
    }
}

impl From<i32> for OptionArg<'_> {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for OptionArg<'_> {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl<'a> From<&'a [u8]> for OptionArg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for OptionArg<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}
