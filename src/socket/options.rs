use std::os::fd::AsFd;

use super::{Error, ErrorKind, Result, Socket};
use crate::rawopt;

/// What [`Socket::setsockopt`] passes to the kernel, in Python's three forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionArg<'a> {
    /// Four bytes in the machine's order.
    Int(i32),
    /// The bytes as they are, for options that are structures.
    Bytes(&'a [u8]),
    /// A null pointer with this length, Python's `setsockopt(level, option, None, optlen)`.
    Null(u32),
}

/// What [`Socket::getsockopt_len`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// The integer form, for a length of 0.
    Int(i32),
    /// The bytes that the kernel wrote, at most as many as were asked for.
    Bytes(Vec<u8>),
}

/// Python's limit on `buflen`.
const MAX_BUFLEN: usize = 1024;

impl Socket {
    /// `getsockopt(level, option)`: the option as an integer. Never waits.
    ///
    /// Reading SO_ERROR clears it: a reset that is learnt here is not reported again by `recv`.
    ///
    /// # Errors
    /// EBADF on a closed socket, ENOPROTOOPT for an unknown option.
    pub fn getsockopt(&self, level: i32, option: i32) -> Result<i32> {
        let (fd, _) = self.inner.begin()?;
        let mut bytes = [0; size_of::<i32>()];
        rawopt::get(fd.as_fd(), level, option, &mut bytes)?;
        Ok(i32::from_ne_bytes(bytes))
    }

    /// `getsockopt(level, option, buflen)`: up to `buflen` bytes; 0 is the integer form again.
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
    /// Bytes that are too short are EINVAL, too many are accepted. An option whose bytes contain
    /// pointers (some of netfilter's do) is the caller's responsibility, as anywhere.
    ///
    /// # Errors
    /// EBADF on a closed socket, and whatever the kernel says to the value.
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
