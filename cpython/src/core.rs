//! The methods of `socket.socket`.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyLookupError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use saltecho::socket as s;

use crate::convert::{
    Raise, address_arg, address_out, family_of, gather, kind_of, memory, os_error, take_raised,
    writable,
};
use crate::file::File;
use crate::{Loose, MessageOut, message_out};

#[pyclass(frozen, subclass)]
pub(crate) struct Core(OnceLock<s::Socket>);

impl Core {
    pub(crate) fn get(&self) -> PyResult<&s::Socket> {
        self.0.get().ok_or_else(|| os_error(libc::EBADF))
    }
}

/// The result of a `recvfrom`: the data or their length, and the sender.
type Received<'py, T> = (T, Option<Bound<'py, PyAny>>);

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    fn _open(&self, family: i32, kind: i32, proto: i32, nonblocking: bool) -> PyResult<()> {
        let options = s::SocketOptions { proto, nonblocking };
        let socket = s::Socket::new_with(family_of(family)?, kind_of(kind)?, options).py()?;
        let _ = self.0.set(socket);
        Ok(())
    }

    fn _open_fd(&self, fd: i32) -> PyResult<()> {
        // SAFETY: the caller gives the descriptor away, or gets it back below.
        match s::Socket::from_fd(unsafe { OwnedFd::from_raw_fd(fd) }) {
            Ok(socket) => {
                let _ = self.0.set(socket);
                Ok(())
            }
            Err(refused) => {
                let (error, fd) = refused.into_parts();
                let _ = fd.into_raw_fd();
                Err(error).py()
            }
        }
    }

    fn _adopt(&self, loose: &Loose) {
        let _ = self.0.set(loose.take());
    }

    fn _dup(&self) -> PyResult<Loose> {
        self.get()?.dup().py().map(Loose::new)
    }

    fn _bind(&self, py: Python<'_>, address: &Bound<'_, PyAny>) -> PyResult<()> {
        let (socket, address) = (self.get()?, address_arg(address)?);
        py.detach(|| socket.bind(address)).py()
    }

    fn _connect(&self, py: Python<'_>, address: &Bound<'_, PyAny>) -> PyResult<()> {
        let (socket, address) = (self.get()?, address_arg(address)?);
        py.detach(|| socket.connect(address)).py()
    }

    fn _connect_ex(&self, py: Python<'_>, address: &Bound<'_, PyAny>) -> PyResult<i32> {
        let (socket, address) = (self.get()?, address_arg(address)?);
        let errno = py.detach(|| socket.connect_ex(address)).py()?;
        // What a signal handler raised is raised by this call too.
        take_raised().map_or(Ok(errno), Err)
    }

    #[pyo3(signature = (backlog=None))]
    fn listen(&self, py: Python<'_>, backlog: Option<i32>) -> PyResult<()> {
        let socket = self.get()?;
        py.detach(|| socket.listen(backlog)).py()
    }

    fn _accept<'py>(&self, py: Python<'py>) -> PyResult<(Loose, Bound<'py, PyAny>)> {
        let socket = self.get()?;
        let (accepted, address) = py.detach(|| socket.accept()).py()?;
        Ok((Loose::new(accepted), address_out(py, &address)?))
    }

    #[pyo3(signature = (bufsize, flags=0))]
    fn recv<'py>(
        &self,
        py: Python<'py>,
        bufsize: isize,
        flags: i32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let socket = self.get()?;
        let data = py.detach(|| socket.recv_with_flags(bufsize, flags)).py()?;
        Ok(PyBytes::new(py, &data))
    }

    fn _recv_into(&self, py: Python<'_>, buffer: PyBuffer<u8>, flags: i32) -> PyResult<usize> {
        let (socket, memory) = (self.get()?, writable(&buffer)?);
        py.detach(|| socket.recv_into_with_flags(memory, flags)).py()
    }

    fn _recvfrom<'py>(
        &self,
        py: Python<'py>,
        bufsize: isize,
        flags: i32,
    ) -> PyResult<Received<'py, Bound<'py, PyBytes>>> {
        let socket = self.get()?;
        let (data, from) = py.detach(|| socket.recvfrom_with_flags(bufsize, flags)).py()?;
        let from = from.map(|a| address_out(py, &a)).transpose()?;
        Ok((PyBytes::new(py, &data), from))
    }

    fn _recvfrom_into<'py>(
        &self,
        py: Python<'py>,
        buffer: PyBuffer<u8>,
        flags: i32,
    ) -> PyResult<Received<'py, usize>> {
        let (socket, memory) = (self.get()?, writable(&buffer)?);
        let (count, from) = py.detach(|| socket.recvfrom_into_with_flags(memory, flags)).py()?;
        Ok((count, from.map(|a| address_out(py, &a)).transpose()?))
    }

    fn _recvmsg<'py>(
        &self,
        py: Python<'py>,
        bufsize: isize,
        ancbufsize: isize,
        flags: i32,
    ) -> PyResult<MessageOut<'py, Bound<'py, PyBytes>>> {
        let socket = self.get()?;
        let message = py.detach(|| socket.recvmsg(bufsize, ancbufsize, flags)).py()?;
        let data = PyBytes::new(py, &message.data);
        message_out(py, message, data)
    }

    fn _recvmsg_into<'py>(
        &self,
        py: Python<'py>,
        buffers: Vec<Bound<'py, PyAny>>,
        ancbufsize: isize,
        flags: i32,
    ) -> PyResult<MessageOut<'py, usize>> {
        let (socket, buffers) = (self.get()?, gather(&buffers)?);
        let mut slices = buffers.writable()?;
        let message = py.detach(|| socket.recvmsg_into(&mut slices, ancbufsize, flags)).py()?;
        let count = message.data;
        message_out(py, message, count)
    }

    fn _sendmsg(
        &self,
        py: Python<'_>,
        buffers: Vec<Bound<'_, PyAny>>,
        ancdata: Vec<(i32, i32, Bound<'_, PyAny>)>,
        flags: i32,
        address: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let (socket, buffers) = (self.get()?, gather(&buffers)?);
        let slices = buffers.slices();
        let contents = ancdata.iter().map(|(.., data)| PyBuffer::get(data));
        let contents = contents.collect::<PyResult<Vec<_>>>()?;
        let ancdata: Vec<_> = ancdata
            .iter()
            .zip(&contents)
            .map(|(&(level, kind, _), data)| s::AncillaryArg::Raw {
                level,
                kind,
                data: memory(data),
            })
            .collect();
        let address = address.map(address_arg).transpose()?;
        py.detach(|| match address {
            None => socket.sendmsg(&slices, &ancdata, flags),
            Some(address) => socket.sendmsg_to(&slices, &ancdata, flags, address),
        })
        .py()
    }

    fn _send(&self, py: Python<'_>, data: PyBuffer<u8>, flags: i32) -> PyResult<usize> {
        let (socket, memory) = (self.get()?, memory(&data));
        py.detach(|| socket.send_with_flags(memory, flags)).py()
    }

    fn _sendall(&self, py: Python<'_>, data: PyBuffer<u8>, flags: i32) -> PyResult<()> {
        let (socket, memory) = (self.get()?, memory(&data));
        py.detach(|| socket.sendall_with_flags(memory, flags)).py()
    }

    fn _sendto(
        &self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        flags: i32,
        address: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let (socket, memory) = (self.get()?, memory(&data));
        let address = address_arg(address)?;
        py.detach(|| socket.sendto_with_flags(memory, flags, address)).py()
    }

    fn _sendfile(&self, py: Python<'_>, fd: i32, offset: u64, count: Option<u64>) -> PyResult<u64> {
        let socket = self.get()?;
        // SAFETY: the caller's file stays open during the call, and is not closed by it.
        let file = ManuallyDrop::new(unsafe { fs::File::from_raw_fd(fd) });
        py.detach(|| socket.sendfile(&file, offset, count)).py()
    }

    fn _sendfile_from(
        &self,
        py: Python<'_>,
        file: Py<PyAny>,
        offset: u64,
        count: Option<u64>,
    ) -> PyResult<u64> {
        let socket = self.get()?;
        py.detach(|| socket.sendfile_from(&mut Reader(file), offset, count)).py()
    }

    fn _getpeername<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_out(py, &self.get()?.getpeername().py()?)
    }

    fn _getsockname<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_out(py, &self.get()?.getsockname().py()?)
    }

    fn shutdown(&self, how: i32) -> PyResult<()> {
        let how = match how {
            libc::SHUT_RD => s::Shutdown::Read,
            libc::SHUT_WR => s::Shutdown::Write,
            libc::SHUT_RDWR => s::Shutdown::Both,
            _ => return Err(os_error(libc::EINVAL)),
        };
        self.get()?.shutdown(how).py()
    }

    fn _close(&self, py: Python<'_>) {
        if let Some(socket) = self.0.get() {
            py.detach(|| socket.close());
        }
    }

    fn _detach(&self) -> PyResult<i32> {
        Ok(self.get()?.detach().py()?.map_or(-1, IntoRawFd::into_raw_fd))
    }

    fn get_inheritable(&self) -> PyResult<bool> {
        self.get()?.get_inheritable().py()
    }

    fn set_inheritable(&self, inheritable: bool) -> PyResult<()> {
        self.get()?.set_inheritable(inheritable).py()
    }

    fn settimeout(&self, seconds: Option<f64>) -> PyResult<()> {
        self.get()?.settimeout(seconds).py()
    }

    fn gettimeout(&self) -> PyResult<Option<f64>> {
        Ok(self.get()?.gettimeout())
    }

    fn _setblocking(&self, flag: bool) -> PyResult<()> {
        self.get()?.setblocking(flag).py()
    }

    fn getblocking(&self) -> PyResult<bool> {
        Ok(self.get()?.getblocking())
    }

    fn fileno(&self) -> i32 {
        self.0.get().map_or(-1, s::Socket::fileno)
    }

    fn _family(&self) -> PyResult<i32> {
        Ok(match self.get()?.family() {
            s::Family::Inet => libc::AF_INET,
            s::Family::Inet6 => libc::AF_INET6,
            s::Family::Unix => libc::AF_UNIX,
        })
    }

    fn _type(&self) -> PyResult<i32> {
        Ok(match self.get()?.kind() {
            s::SocketType::Stream => libc::SOCK_STREAM,
            s::SocketType::Datagram => libc::SOCK_DGRAM,
        })
    }

    fn _proto(&self) -> PyResult<i32> {
        Ok(self.get()?.proto())
    }

    #[pyo3(signature = (level, option, buflen=0))]
    fn getsockopt<'py>(
        &self,
        py: Python<'py>,
        level: i32,
        option: i32,
        buflen: i32,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.get()?.getsockopt_len(level, option, buflen).py()? {
            s::OptionValue::Int(n) => n.into_pyobject(py)?.into_any(),
            s::OptionValue::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
        })
    }

    #[pyo3(signature = (level, option, value, optlen=None))]
    fn setsockopt(
        &self,
        level: i32,
        option: i32,
        value: &Bound<'_, PyAny>,
        optlen: Option<u32>,
    ) -> PyResult<()> {
        let socket = self.get()?;
        if value.is_none() {
            let length = optlen.ok_or_else(|| PyTypeError::new_err("optlen is missing"))?;
            return socket.setsockopt(level, option, s::OptionArg::Null(length)).py();
        }
        if let Ok(value) = value.extract::<i32>() {
            return socket.setsockopt(level, option, value).py();
        }
        let buffer = PyBuffer::<u8>::get(value)?;
        socket.setsockopt(level, option, &*memory(&buffer)).py()
    }

    fn _makefile(
        &self,
        mode: &str,
        buffering: Option<i64>,
        encoding: Option<&str>,
        errors: &str,
        newline: Option<&str>,
    ) -> PyResult<File> {
        let errors = match errors {
            "strict" => s::DecodeErrors::Strict,
            "replace" => s::DecodeErrors::Replace,
            "ignore" => s::DecodeErrors::Ignore,
            other => {
                let text = format!("unknown error handler name '{other}'");
                return Err(PyLookupError::new_err(text));
            }
        };
        let options = s::FileOptions { buffering, encoding, errors, newline };
        Ok(File::new(self.get()?.makefile(mode, options).py()?))
    }
}

/// A Python file object that is read and moved about from Rust.
struct Reader(Py<PyAny>);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Python::attach(|py| {
            let data = self.0.bind(py).call_method1("read", (buffer.len(),))?;
            let data = data.cast::<PyBytes>()?.as_bytes();
            buffer[..data.len()].copy_from_slice(data);
            Ok(data.len())
        })
        .map_err(|error: PyErr| io::Error::other(error.to_string()))
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(to) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        Python::attach(|py| self.0.bind(py).call_method1("seek", (to,))?.extract())
            .map_err(|error: PyErr| io::Error::other(error.to_string()))
    }
}
