//! System calls with the arguments that Python passes: any option, address and control message.
//!
//! Typed wrappers know one option or one control message each, and they trust an address more than
//! the kernel does: a peer may bind a Unix path of 108 bytes, which leaves no room for the zero
//! byte at its end. This is the only module of the crate with unsafe code. Its functions make one
//! call each and interpret nothing but the descriptors that a message carries, which have no owner
//! until they get one here.
#![allow(unsafe_code, reason = "no safe crate passes any option, address or message through")]
#![cfg_attr(not(feature = "socket"), allow(dead_code, reason = "the loop alone reads one option"))]

use std::ffi::{CStr, CString};
use std::io::{IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

/// A socket address as the kernel reads and writes it: a `sockaddr` of some family.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; CAPACITY],
    length: usize,
}

/// Room for an address of any family.
const CAPACITY: usize = size_of::<libc::sockaddr_storage>();

impl Name {
    const EMPTY: Self = Self { bytes: [0; CAPACITY], length: 0 };

    /// An address of these parts, one behind the other; `None` if they are too long.
    pub(crate) fn from_parts(parts: &[&[u8]]) -> Option<Self> {
        let mut name = Self::EMPTY;
        for part in parts {
            let end = name.length + part.len();
            name.bytes.get_mut(name.length..end)?.copy_from_slice(part);
            name.length = end;
        }
        Some(name)
    }

    /// The bytes; none if the kernel reported no address.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn as_raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        let length = libc::socklen_t::try_from(self.length).expect("at most CAPACITY");
        (self.bytes.as_ptr().cast(), length)
    }

    /// Calls with room for an address and keeps what was written there. The call's result is
    /// negative if it failed, and its errno is then returned.
    fn written_by<T: TryInto<usize>>(
        call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> T,
    ) -> Result<(usize, Self), Errno> {
        let mut name = Self::EMPTY;
        let mut length = libc::socklen_t::try_from(CAPACITY).expect("a small number");
        let result = call(name.bytes.as_mut_ptr().cast(), &raw mut length);
        let result = count(result)?;
        // The kernel reports the length of the whole address, even if a part of it fitted.
        name.length = CAPACITY.min(usize::try_from(length).unwrap_or(CAPACITY));
        Ok((result, name))
    }
}

/// A control message as it was received.
#[derive(Debug)]
pub(crate) enum Control {
    /// SCM_RIGHTS: descriptors, which this owns.
    Fds(Vec<OwnedFd>),
    /// Any other, its content as it is.
    Raw { level: i32, kind: i32, data: Vec<u8> },
}

/// The result of [`recvmsg`].
pub(crate) struct Received {
    pub(crate) count: usize,
    pub(crate) control: Vec<Control>,
    pub(crate) flags: i32,
    pub(crate) name: Name,
}

/// accept4(2).
pub(crate) fn accept(fd: BorrowedFd<'_>, flags: i32) -> Result<(OwnedFd, Name), Errno> {
    // SAFETY: `name` and `length` are what `written_by` gives, live and exclusively borrowed, and
    // the kernel writes no more than the length that it is given.
    let (accepted, name) = Name::written_by(|name, length| unsafe {
        libc::accept4(fd.as_raw_fd(), name, length, flags)
    })?;
    let accepted = i32::try_from(accepted).expect("a descriptor's number");
    // SAFETY: the kernel has just opened this descriptor, and nothing else knows its number.
    Ok((unsafe { OwnedFd::from_raw_fd(accepted) }, name))
}

/// getpeername(2).
pub(crate) fn getpeername(fd: BorrowedFd<'_>) -> Result<Name, Errno> {
    // SAFETY: as for `accept`.
    Name::written_by(|name, length| unsafe { libc::getpeername(fd.as_raw_fd(), name, length) })
        .map(|(_, name)| name)
}

/// getsockname(2).
pub(crate) fn getsockname(fd: BorrowedFd<'_>) -> Result<Name, Errno> {
    // SAFETY: as for `accept`.
    Name::written_by(|name, length| unsafe { libc::getsockname(fd.as_raw_fd(), name, length) })
        .map(|(_, name)| name)
}

/// bind(2).
pub(crate) fn bind(fd: BorrowedFd<'_>, name: &Name) -> Result<(), Errno> {
    let (address, length) = name.as_raw();
    // SAFETY: the address is borrowed, hence valid for reads of `length` bytes, for the whole call.
    check(unsafe { libc::bind(fd.as_raw_fd(), address, length) })
}

/// connect(2).
pub(crate) fn connect(fd: BorrowedFd<'_>, name: &Name) -> Result<(), Errno> {
    let (address, length) = name.as_raw();
    // SAFETY: as for `bind`.
    check(unsafe { libc::connect(fd.as_raw_fd(), address, length) })
}

/// recvfrom(2): what was written to `buffer`, the kernel's count, and from where it came.
///
/// With MSG_TRUNC the count may exceed what was written, and a stream writes nothing at all: the
/// bytes are then zero.
pub(crate) fn recvfrom<'a>(
    fd: BorrowedFd<'_>,
    buffer: &'a mut [MaybeUninit<u8>],
    flags: i32,
) -> Result<(&'a [u8], usize, Name), Errno> {
    if flags & libc::MSG_TRUNC != 0 {
        buffer.fill(MaybeUninit::new(0));
    }
    // SAFETY: `buffer` is exclusively borrowed and valid for writes of its length, the most that
    // the kernel writes; the address as for `accept`.
    let (count, name) = Name::written_by(|name, length| unsafe {
        let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        libc::recvfrom(fd.as_raw_fd(), start, size, flags, name, length)
    })?;
    let filled = &buffer[..count.min(buffer.len())];
    // SAFETY: the kernel has written that many bytes, or, with MSG_TRUNC, they were all zero before.
    let filled = unsafe { std::slice::from_raw_parts(filled.as_ptr().cast(), filled.len()) };
    Ok((filled, count, name))
}

/// sendto(2).
pub(crate) fn sendto(
    fd: BorrowedFd<'_>,
    data: &[u8],
    flags: i32,
    name: &Name,
) -> Result<usize, Errno> {
    let (address, length) = name.as_raw();
    // SAFETY: data and address are borrowed, hence valid for reads of their lengths, for the whole
    // call.
    count(unsafe {
        let (start, size) = (data.as_ptr().cast(), data.len());
        libc::sendto(fd.as_raw_fd(), start, size, flags, address, length)
    })
}

/// recvmsg(2). `control` is scratch space: its length limits the ancillary data.
pub(crate) fn recvmsg(
    fd: BorrowedFd<'_>,
    buffers: &mut [IoSliceMut<'_>],
    control: &mut [u8],
    flags: i32,
) -> Result<Received, Errno> {
    let mut name = Name::EMPTY;
    // SAFETY: all zeros is a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = name.bytes.as_mut_ptr().cast();
    message.msg_namelen = libc::socklen_t::try_from(CAPACITY).expect("a small number");
    // An IoSliceMut is an iovec: the standard library guarantees it.
    message.msg_iov = buffers.as_mut_ptr().cast();
    message.msg_iovlen = buffers.len() as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    // SAFETY: every pointer in `message` comes from an exclusive borrow that outlives the call, with
    // its own length next to it, which the kernel does not exceed.
    let received = count(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })?;
    name.length = CAPACITY.min(message.msg_namelen as usize);
    let filled = control.len().min(message.msg_controllen as usize);
    Ok(Received {
        count: received,
        control: parse(&control[..filled]),
        flags: message.msg_flags,
        name,
    })
}

/// sendmsg(2), with control messages laid out by [`push_control`].
pub(crate) fn sendmsg(
    fd: BorrowedFd<'_>,
    buffers: &[IoSlice<'_>],
    control: &[u8],
    flags: i32,
    name: Option<&Name>,
) -> Result<usize, Errno> {
    // SAFETY: all zeros is a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { zeroed() };
    if let Some((address, length)) = name.map(Name::as_raw) {
        message.msg_name = address.cast_mut().cast();
        message.msg_namelen = length;
    }
    // An IoSlice is an iovec: the standard library guarantees it.
    message.msg_iov = buffers.as_ptr().cast_mut().cast();
    message.msg_iovlen = buffers.len() as _;
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len() as _;
    }
    // SAFETY: every pointer in `message` comes from a borrow that outlives the call, with its own
    // length next to it. sendmsg(2) only reads through them, so shared borrows are enough.
    count(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
}

/// The length of a control message with this much content: CMSG_LEN.
pub(crate) const fn cmsg_len(content: usize) -> usize {
    // glibc's header is a multiple of the alignment; CMSG_LEN(0) is its size.
    size_of::<libc::cmsghdr>() + content
}

/// The room that such a message takes up: CMSG_SPACE.
pub(crate) const fn cmsg_space(content: usize) -> usize {
    cmsg_len(content).next_multiple_of(align_of::<libc::cmsghdr>())
}

/// Appends a control message to those in `control`.
pub(crate) fn push_control(control: &mut Vec<u8>, level: i32, kind: i32, content: &[u8]) {
    let end = control.len() + cmsg_space(content.len());
    control.extend_from_slice(&cmsg_len(content.len()).to_ne_bytes());
    control.extend_from_slice(&level.to_ne_bytes());
    control.extend_from_slice(&kind.to_ne_bytes());
    control.extend_from_slice(content);
    control.resize(end, 0);
}

/// Takes apart what the kernel wrote. A content that it cut is as long as there was room.
fn parse(mut control: &[u8]) -> Vec<Control> {
    const HEADER: usize = cmsg_len(0);
    let mut messages = Vec::new();
    while let Some((header, rest)) = control.split_first_chunk::<HEADER>() {
        let (length, header) = header.split_first_chunk().expect("the header has a length");
        let (level, kind) = header.split_first_chunk().expect("and a level");
        let length = usize::from_ne_bytes(*length);
        let (level, kind) = (i32::from_ne_bytes(*level), kind.first_chunk().expect("and a type"));
        let kind = i32::from_ne_bytes(*kind);
        let Some(content) = length.checked_sub(HEADER) else { break };
        let content = &rest[..content.min(rest.len())];
        messages.push(match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => Control::Fds(adopt(content)),
            _ => Control::Raw { level, kind, data: content.to_vec() },
        });
        control = control.get(cmsg_space(content.len())..).unwrap_or_default();
    }
    messages
}

/// The descriptors of an SCM_RIGHTS message, which the kernel has just opened for this process.
fn adopt(content: &[u8]) -> Vec<OwnedFd> {
    let numbers = content.chunks_exact(size_of::<i32>());
    let numbers = numbers.map(|n| i32::from_ne_bytes(n.try_into().expect("a whole chunk")));
    // SAFETY: only `parse` calls this, with bytes that recvmsg(2) has written: each number is that
    // of a descriptor which the kernel opened in this very call, so nothing else owns it.
    numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

/// Why [`getaddrinfo`] found nothing.
pub(crate) enum LookupError {
    /// The resolver's own number (EAI_NONAME and the like) and text.
    Resolver(i32, String),
    /// EAI_SYSTEM.
    System(Errno),
}

/// getaddrinfo(3): the addresses of a host and a service, in the resolver's order.
///
/// `kind` is a socket type, or 0 for all of them, which lists each address several times.
pub(crate) fn getaddrinfo(
    host: Option<&CString>,
    service: Option<&CString>,
    family: i32,
    kind: i32,
) -> Result<Vec<Name>, LookupError> {
    // SAFETY: all zeros is a valid addrinfo: null pointers, and no flag, family or type.
    let mut hints: libc::addrinfo = unsafe { zeroed() };
    (hints.ai_family, hints.ai_socktype) = (family, kind);
    let [host, service] =
        [host, service].map(|text| text.map_or(ptr::null(), |text| text.as_ptr()));
    let mut list = ptr::null_mut();
    // SAFETY: both texts are null or end with a zero byte, and they, `hints` and `list` live
    // through the call, which leaves in `list` a list to be freed, if it succeeds.
    let code = unsafe { libc::getaddrinfo(host, service, &raw const hints, &raw mut list) };
    match code {
        0 => {}
        libc::EAI_SYSTEM => return Err(LookupError::System(last_errno())),
        code => {
            // SAFETY: gai_strerror returns a text that is constant for any number.
            let text = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
            return Err(LookupError::Resolver(code, text.to_string_lossy().into_owned()));
        }
    }
    let mut names = Vec::new();
    let mut next = list.cast_const();
    // SAFETY: `next` is null or one of the entries, which live until freeaddrinfo below.
    while let Some(entry) = unsafe { next.as_ref() } {
        let length = usize::try_from(entry.ai_addrlen).unwrap_or(0);
        // SAFETY: an entry has an address of this length, in bytes that are all initialized.
        let bytes = unsafe { std::slice::from_raw_parts(entry.ai_addr.cast::<u8>(), length) };
        names.extend(Name::from_parts(&[bytes]));
        next = entry.ai_next;
    }
    // SAFETY: `list` comes from getaddrinfo, is freed once, and nothing refers to it any more.
    unsafe { libc::freeaddrinfo(list) };
    Ok(names)
}

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
    // were initialized before the call, so whatever prefix the kernel fills they stay so.
    let result = unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(fd.as_raw_fd(), level, option, value, &raw mut length)
    };
    check(result)?;
    Ok(value.len().min(usize::try_from(length).unwrap_or(usize::MAX)))
}

/// Sets an option to these bytes.
pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `value` is borrowed, hence valid for reads of `length` bytes, for the whole call. The
    // kernel copies what it wants and keeps no pointer to it.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    check(result)
}

/// Passes a null pointer with a length.
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

/// malloc_trim(3): returns free memory of glibc's allocator to the kernel, also from below what is in
/// use. Other allocators have no such call.
#[cfg(feature = "server")]
pub(crate) fn trim_memory() {
    // SAFETY: any thread may call it at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Converts the result of a call; a negative one means that it failed.
fn count<T: TryInto<usize>>(result: T) -> Result<usize, Errno> {
    result.try_into().map_err(|_| last_errno())
}

/// The errno of the call that this thread has just made.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_survive_the_round_trip_and_a_cut() {
        let mut control = Vec::new();
        push_control(&mut control, 41, 52, &7i32.to_ne_bytes());
        push_control(&mut control, 41, 67, b"0123456789");
        assert_eq!(control.len(), cmsg_space(4) + cmsg_space(10));
        for (length, expected) in [
            (control.len(), &[(52, 4), (67, 10)][..]),
            // Without the padding behind the last one, as the kernel reports it.
            (cmsg_space(4) + cmsg_len(10), &[(52, 4), (67, 10)]),
            (cmsg_space(4) + cmsg_len(3), &[(52, 4), (67, 3)]),
            (cmsg_space(4) + cmsg_len(0) - 1, &[(52, 4)]),
            (0, &[]),
        ] {
            let messages = parse(&control[..length]);
            let lengths: Vec<_> = messages
                .iter()
                .map(|message| match message {
                    Control::Raw { level: 41, kind, data } => (*kind, data.len()),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(lengths, expected, "{length}");
        }
    }

    #[test]
    fn a_header_that_is_shorter_than_itself_ends_the_list() {
        let mut control = Vec::new();
        push_control(&mut control, 41, 52, b"");
        control[0] = 3;
        assert!(parse(&control).is_empty());
    }

    #[test]
    fn an_address_has_at_most_the_room_of_any() {
        assert!(Name::from_parts(&[&[0; CAPACITY]]).is_some());
        assert!(Name::from_parts(&[&[0; CAPACITY], &[0]]).is_none());
    }
}
