//! Errors, addresses and buffers, from one language to the other.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::IntoRawFd;
use std::sync::OnceLock;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use saltecho::socket as s;

/// `make(kind, errno, message, text, written, exceptions)`, in saltsock.py, builds the exception.
static FACTORY: OnceLock<Py<PyAny>> = OnceLock::new();

thread_local! {
    /// The exception of a signal handler that ran while this thread was in a call.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

#[pyfunction]
pub(crate) fn set_factory(make: Py<PyAny>) {
    let _ = FACTORY.set(make);
}

/// From now on Python's signal handlers run when a waiting call is interrupted, and end it if they
/// raise.
pub(crate) fn set_hook() {
    s::set_interrupt_hook(Some(|| {
        Python::attach(|py| match py.check_signals() {
            Ok(()) => false,
            Err(raised) => {
                RAISED.set(Some(raised));
                true
            }
        })
    }));
}

/// Takes the exception of a signal handler that ran during this thread's last call.
pub(crate) fn take_raised() -> Option<PyErr> {
    RAISED.take()
}

fn raise(error: &s::Error) -> PyErr {
    if error.kind() == s::ErrorKind::InterruptedError
        && let Some(raised) = take_raised()
    {
        return raised;
    }
    Python::attach(|py| {
        let exceptions = error.exceptions().iter().map(|e| raise(e).into_value(py));
        let made = PyList::new(py, exceptions.collect::<Vec<_>>()).and_then(|exceptions| {
            FACTORY.get().expect("set by saltsock.py").bind(py).call1((
                error.kind().name(),
                error.errno(),
                error.message().into_owned(),
                error.to_string(),
                error.characters_written(),
                exceptions,
            ))
        });
        made.map_or_else(|e| e, PyErr::from_value)
    })
}

pub(crate) trait Raise<T> {
    fn py(self) -> PyResult<T>;
}

impl<T> Raise<T> for s::Result<T> {
    fn py(self) -> PyResult<T> {
        self.map_err(|error| raise(&error))
    }
}

pub(crate) fn os_error(errno: i32) -> PyErr {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    PyOSError::new_err((errno, text.split(" (os error").next().map(str::to_owned)))
}

pub(crate) fn family_of(family: i32) -> PyResult<s::Family> {
    match family {
        libc::AF_INET => Ok(s::Family::Inet),
        libc::AF_INET6 => Ok(s::Family::Inet6),
        libc::AF_UNIX => Ok(s::Family::Unix),
        _ => Err(os_error(libc::EAFNOSUPPORT)),
    }
}

pub(crate) fn kind_of(kind: i32) -> PyResult<s::SocketType> {
    match kind {
        libc::SOCK_STREAM => Ok(s::SocketType::Stream),
        libc::SOCK_DGRAM => Ok(s::SocketType::Datagram),
        _ => Err(os_error(libc::ESOCKTNOSUPPORT)),
    }
}

/// The four forms of an address: bytes for a Unix path, (host, port), (host, port, flowinfo, scope)
/// and (host or None, service).
pub(crate) fn address_arg(address: &Bound<'_, PyAny>) -> PyResult<s::AddressArg<'static>> {
    if let Ok(path) = address.cast::<PyBytes>() {
        return Ok(s::AddressArg::Exact(s::Address::Unix(path.as_bytes().to_vec())));
    }
    let tuple = address.cast::<PyTuple>()?;
    if let Ok((host, service)) = tuple.extract::<(Option<String>, String)>() {
        return Ok(s::AddressArg::Service(host.map(Cow::Owned), service.into()));
    }
    if let Ok((host, port)) = tuple.extract::<(String, i64)>() {
        return Ok(s::AddressArg::HostPort(host.into(), port));
    }
    let (host, port, flowinfo, scope): (String, i64, u32, u32) = tuple.extract()?;
    Ok(s::AddressArg::HostPort6(host.into(), port, flowinfo, scope))
}

pub(crate) fn address_out<'py>(
    py: Python<'py>,
    address: &s::Address,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address {
        s::Address::V4(a) => (a.ip().to_string(), a.port()).into_pyobject(py)?.into_any(),
        s::Address::V6(a) => {
            (a.ip().to_string(), a.port(), a.flowinfo(), a.scope_id()).into_pyobject(py)?.into_any()
        }
        s::Address::Unix(path) => PyBytes::new(py, path).into_any(),
    })
}

/// A list of (level, type, data). Descriptors become numbers, which the caller then owns.
pub(crate) fn ancillary_out(
    py: Python<'_>,
    ancillary: Vec<s::Ancillary>,
) -> PyResult<Bound<'_, PyAny>> {
    let items = ancillary.into_iter().map(|item| match item {
        s::Ancillary::Fds(fds) => {
            let numbers: Vec<u8> =
                fds.into_iter().flat_map(|fd| fd.into_raw_fd().to_ne_bytes()).collect();
            (libc::SOL_SOCKET, libc::SCM_RIGHTS, PyBytes::new(py, &numbers))
        }
        s::Ancillary::Raw { level, kind, data } => (level, kind, PyBytes::new(py, &data)),
    });
    Ok(PyList::new(py, items.collect::<Vec<_>>())?.into_any())
}

/// The buffer's memory, for as long as `buffer` lives. CPython gives it away without the GIL too.
#[allow(clippy::mut_from_ref)]
pub(crate) fn memory(buffer: &PyBuffer<u8>) -> &mut [u8] {
    match buffer.len_bytes() {
        0 => &mut [],
        // SAFETY: the buffer is contiguous, as saltsock.py makes sure, and pinned while it is held.
        n => unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast(), n) },
    }
}

/// The memory of a buffer that may be written to.
#[allow(clippy::mut_from_ref)]
pub(crate) fn writable(buffer: &PyBuffer<u8>) -> PyResult<&mut [u8]> {
    if buffer.readonly() {
        return Err(PyTypeError::new_err("a writable buffer is required"));
    }
    Ok(memory(buffer))
}

/// Several buffers that are sent or filled as one.
pub(crate) struct Gathered(Vec<PyBuffer<u8>>);

pub(crate) fn gather(buffers: &[Bound<'_, PyAny>]) -> PyResult<Gathered> {
    buffers.iter().map(PyBuffer::get).collect::<PyResult<_>>().map(Gathered)
}

impl Gathered {
    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        self.0.iter().map(|buffer| IoSlice::new(memory(buffer))).collect()
    }

    pub(crate) fn writable(&self) -> PyResult<Vec<IoSliceMut<'_>>> {
        self.0.iter().map(|buffer| writable(buffer).map(IoSliceMut::new)).collect()
    }
}
