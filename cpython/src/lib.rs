//! `saltecho::socket` as the Python module `_saltsock`: conversions and nothing else.
//!
//! `saltsock.py` handles arguments as CPython's C code does (tuples, enums, TypeErrors).

mod convert;
mod core;
mod file;

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBool;
use saltecho::python::Timeout;
use saltecho::socket as s;

use crate::convert::{Raise, address_arg, address_out, ancillary_out, family_of, kind_of};

/// A socket on its way to the Python object that will own it.
#[pyclass(frozen)]
struct Loose(Mutex<Option<s::Socket>>);

impl Loose {
    fn new(socket: s::Socket) -> Self {
        Self(Mutex::new(Some(socket)))
    }

    fn take(&self) -> s::Socket {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().expect("adopted once")
    }
}

/// Python's `(data, ancdata, msg_flags, address)`.
type MessageOut<'py, T> = (T, Bound<'py, PyAny>, i32, Option<Bound<'py, PyAny>>);

fn message_out<'py, T, D>(
    py: Python<'py>,
    message: s::Message<T>,
    data: D,
) -> PyResult<MessageOut<'py, D>> {
    let address = message.address.map(|address| address_out(py, &address)).transpose()?;
    Ok((data, ancillary_out(py, message.ancillary)?, message.flags, address))
}

/// `seconds`: False to leave the default timeout in force, else what settimeout takes.
#[pyfunction]
fn create_connection(
    py: Python<'_>,
    address: &Bound<'_, PyAny>,
    seconds: &Bound<'_, PyAny>,
    source: Option<&Bound<'_, PyAny>>,
    all_errors: bool,
) -> PyResult<Loose> {
    let address = address_arg(address)?;
    let source = source.map(address_arg).transpose()?;
    let timeout = if seconds.is_instance_of::<PyBool>() {
        None
    } else {
        let timeout = Timeout::from_secs(seconds.extract()?);
        Some(timeout.map_err(s::Error::from).py()?)
    };
    let connect = match all_errors {
        true => s::create_connection_all_errors,
        false => s::create_connection,
    };
    py.detach(|| connect(address, timeout, source.as_ref())).py().map(Loose::new)
}

#[pyfunction]
fn create_server(
    py: Python<'_>,
    address: &Bound<'_, PyAny>,
    family: i32,
    backlog: Option<i32>,
    reuse_port: bool,
    dualstack_ipv6: bool,
) -> PyResult<Loose> {
    let address = address_arg(address)?;
    let family = family_of(family)?;
    let options = s::ServerOptions { family, backlog, reuse_port, dualstack_ipv6 };
    py.detach(|| s::create_server(address, options)).py().map(Loose::new)
}

#[pyfunction]
fn socketpair(family: i32, kind: i32, proto: i32) -> PyResult<(Loose, Loose)> {
    let (a, b) = s::socketpair_with(family_of(family)?, kind_of(kind)?, proto).py()?;
    Ok((Loose::new(a), Loose::new(b)))
}

#[pyfunction]
fn setdefaulttimeout(seconds: Option<f64>) -> PyResult<()> {
    s::setdefaulttimeout(seconds).py()
}

#[pyfunction]
fn getdefaulttimeout() -> Option<f64> {
    s::getdefaulttimeout()
}

#[pymodule]
fn _saltsock(m: &Bound<'_, PyModule>) -> PyResult<()> {
    convert::set_hook();
    m.add_class::<core::Core>()?;
    m.add_class::<file::File>()?;
    m.add_class::<Loose>()?;
    m.add_function(wrap_pyfunction!(create_connection, m)?)?;
    m.add_function(wrap_pyfunction!(create_server, m)?)?;
    m.add_function(wrap_pyfunction!(socketpair, m)?)?;
    m.add_function(wrap_pyfunction!(setdefaulttimeout, m)?)?;
    m.add_function(wrap_pyfunction!(getdefaulttimeout, m)?)?;
    m.add_function(wrap_pyfunction!(convert::set_factory, m)?)
}
