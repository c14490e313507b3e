//! The files of `makefile`.

use std::mem::ManuallyDrop;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use saltecho::socket as s;

use crate::convert::{Raise, memory, writable};

#[pyclass(frozen)]
pub(crate) struct File(ManuallyDrop<s::File>);

impl File {
    pub(crate) fn new(file: s::File) -> Self {
        Self(ManuallyDrop::new(file))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A writer is flushed, which may wait.
        // SAFETY: this is the only drop of it.
        Python::attach(|py| py.detach(|| unsafe { ManuallyDrop::drop(&mut self.0) }));
    }
}

fn data_out(py: Python<'_>, data: s::Data) -> Bound<'_, PyAny> {
    match data {
        s::Data::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
        s::Data::Text(text) => PyString::new(py, &text).into_any(),
    }
}

#[pymethods]
impl File {
    fn kind(&self) -> &'static str {
        match *self.0 {
            s::File::Raw(_) => "raw",
            s::File::Buffered(_) => "buffered",
            s::File::Text(_) => "text",
        }
    }

    fn read<'py>(&self, py: Python<'py>, n: Option<usize>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let data = py.detach(|| self.0.read(n)).py()?;
        Ok(data.map(|data| data_out(py, data)))
    }

    fn read1<'py>(&self, py: Python<'py>, n: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let data = py.detach(|| self.0.read1(n)).py()?;
        Ok(PyBytes::new(py, &data))
    }

    fn readinto(&self, py: Python<'_>, buffer: PyBuffer<u8>) -> PyResult<Option<usize>> {
        let memory = writable(&buffer)?;
        py.detach(|| self.0.readinto(memory)).py()
    }

    fn peek<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let data = py.detach(|| self.0.peek()).py()?;
        Ok(PyBytes::new(py, &data))
    }

    fn readline<'py>(&self, py: Python<'py>, limit: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
        let data = py.detach(|| self.0.readline(limit)).py()?;
        Ok(data_out(py, data))
    }

    fn readlines<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let lines = py.detach(|| self.0.readlines()).py()?;
        Ok(lines.into_iter().map(|line| data_out(py, line)).collect())
    }

    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        if let Ok(text) = data.cast::<PyString>() {
            let text = text.to_str()?;
            return py.detach(|| self.0.write(text)).py();
        }
        let buffer = PyBuffer::<u8>::get(data)?;
        let memory = memory(&buffer);
        py.detach(|| self.0.write(&*memory)).py()
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.flush()).py()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.close()).py()
    }

    fn closed(&self) -> bool {
        self.0.closed()
    }

    fn readable(&self) -> PyResult<bool> {
        self.0.readable().py()
    }

    fn writable(&self) -> PyResult<bool> {
        self.0.writable().py()
    }

    fn seekable(&self) -> PyResult<bool> {
        self.0.seekable().py()
    }

    fn fileno(&self) -> PyResult<i32> {
        self.0.fileno().py()
    }

    fn mode(&self) -> Option<&str> {
        self.0.mode()
    }
}
