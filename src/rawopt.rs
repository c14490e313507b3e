//! Raw `getsockopt(2)` and `setsockopt(2)`: any level, any option, any bytes.
//!
//! Typed wrappers know one option each, while Python's two calls take numbers and bytes. This is
//! the only module of the crate with unsafe code; it has three calls and nothing else.
#![allow(unsafe_code, reason = "no safe crate passes arbitrary option numbers and bytes through")]

use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(feature = "socket")]
use std::ptr;

use rustix::io::Errno;

/// Reads an option into `value` and says how many bytes the kernel has.
///
/// The answer is at most `value.len()`: the kernel shortens what does not fit.
pub(crate) fn get(
    fd: BorrowedFd<'_>,
    level: i32,
    option: i32,
    value: &mut [u8],
) -> Result<usize, Errno> {
    let capacity = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    let mut length = capacity;
    // SAFETY: `value` is exclusively borrowed and valid for writes of `capacity` bytes, and the
    // kernel writes no more than the length it is given. `length` is a live socklen_t. The bytes
    // were initialised before the call, so whatever prefix the kernel fills they stay so.
    let result = unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(fd.as_raw_fd(), level, option, value, &raw mut length)
    };
    check(result)?;
    Ok(value.len().min(usize::try_from(length).unwrap_or(usize::MAX)))
}

/// Sets an option to these bytes.
#[cfg(feature = "socket")]
pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `value` is borrowed, hence valid for reads of `length` bytes, for the whole call. The
    // kernel copies what it wants and keeps no pointer to it.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    check(result)
}

/// Passes a null pointer with a length.
#[cfg(feature = "socket")]
pub(crate) fn set_null(
    fd: BorrowedFd<'_>,
    level: i32,
    option: i32,
    length: u32,
) -> Result<(), Errno> {
    // SAFETY: the kernel copies through accessors that check for faults, so a null pointer is
    // answered with EFAULT, or ignored by the options that take none.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, ptr::null(), length) };
    check(result)
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    // errno was set by the call just made on this thread.
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}
