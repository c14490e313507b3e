use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::{Errno, ioctl_fionbio};

use super::{Family, Result, SocketType};
use crate::python::Timeout;

/// State shared by a [`Socket`](super::Socket) and the files made from it.
///
/// Each call briefly takes the lock to copy the descriptor and the timeout, then works without it,
/// so that one thread can receive while another sends. A call in progress keeps the descriptor
/// open: a `close` from another thread takes effect when that call ends. The kernel does the same
/// with a file in use by a system call. A call with a timeout looks again each time it wakes, as
/// Python does, and ends with EBADF.
pub(super) struct Inner {
    pub(super) family: Family,
    pub(super) kind: SocketType,
    pub(super) proto: i32,
    pub(super) origin: Origin,
    state: Mutex<State>,
}

/// Where a descriptor comes from, which decides about its O_NONBLOCK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Created here: it never blocks, in any mode.
    Made,
    /// Taken over. Another process may hold the same open file description, to which the flag
    /// belongs, so it is set as Python sets it: when a mode is chosen, and according to the mode.
    /// Calls that would block in blocking mode nevertheless pass MSG_DONTWAIT.
    TakenOver,
}

struct State {
    timeout: Timeout,
    life: Life,
}

enum Life {
    Open {
        fd: Arc<OwnedFd>,
        files: usize,
    },
    /// `close` was called with files open: all calls still work until the last file is closed
    /// (CPython's `_closed` with `_io_refs` above zero).
    Closing {
        fd: Arc<OwnedFd>,
        files: NonZeroUsize,
    },
    Closed,
}

impl Inner {
    pub(super) fn new(
        fd: OwnedFd,
        (family, kind, proto): (Family, SocketType, i32),
        origin: Origin,
        timeout: Timeout,
    ) -> Self {
        let life = Life::Open { fd: Arc::new(fd), files: 0 };
        Self { family, kind, proto, origin, state: Mutex::new(State { timeout, life }) }
    }

    /// Returns the descriptor and the timeout for one call.
    ///
    /// # Errors
    /// EBADF if the socket is closed.
    pub(super) fn begin(&self) -> Result<(Arc<OwnedFd>, Timeout)> {
        let state = self.lock();
        match &state.life {
            Life::Open { fd, .. } | Life::Closing { fd, .. } => Ok((Arc::clone(fd), state.timeout)),
            Life::Closed => Err(Errno::BADF.into()),
        }
    }

    pub(super) fn timeout(&self) -> Timeout {
        self.lock().timeout
    }

    /// Stores the timeout before it checks for a closed socket, in CPython's order.
    pub(super) fn set_timeout(&self, timeout: Timeout) -> Result<()> {
        let mut state = self.lock();
        state.timeout = timeout;
        match &state.life {
            Life::Open { fd, .. } | Life::Closing { fd, .. } => match self.origin {
                Origin::Made => Ok(()),
                Origin::TakenOver => Ok(ioctl_fionbio(fd, timeout != Timeout::Blocking)?),
            },
            Life::Closed => Err(Errno::BADF.into()),
        }
    }

    /// For a call that has waited: EBADF if the socket was closed or detached meanwhile.
    pub(super) fn still_open(&self) -> Result<()> {
        match self.lock().life {
            Life::Open { .. } | Life::Closing { .. } => Ok(()),
            Life::Closed => Err(Errno::BADF.into()),
        }
    }

    /// Closes now, or when the last file is closed.
    pub(super) fn close(&self) {
        self.replace(|life| match life {
            Life::Open { fd, files } => match NonZeroUsize::new(files) {
                Some(files) => (Life::Closing { fd, files }, None),
                None => (Life::Closed, Some(fd)),
            },
            Life::Closing { .. } | Life::Closed => (life, None),
        });
    }

    /// Closes the socket and returns its descriptor; open files then use a closed socket.
    pub(super) fn detach(&self) -> Option<Arc<OwnedFd>> {
        self.replace(|life| match life {
            Life::Open { fd, .. } | Life::Closing { fd, .. } => (Life::Closed, Some(fd)),
            Life::Closed => (Life::Closed, None),
        })
    }

    pub(super) fn file_opened(&self) {
        self.replace(|life| match life {
            Life::Open { fd, files } => (Life::Open { fd, files: files + 1 }, None),
            Life::Closing { fd, files } => {
                (Life::Closing { fd, files: files.saturating_add(1) }, None)
            }
            Life::Closed => (Life::Closed, None),
        });
    }

    pub(super) fn file_closed(&self) {
        self.replace(|life| match life {
            Life::Open { fd, files } => (Life::Open { fd, files: files.saturating_sub(1) }, None),
            Life::Closing { fd, files } => match NonZeroUsize::new(files.get() - 1) {
                Some(files) => (Life::Closing { fd, files }, None),
                None => (Life::Closed, Some(fd)),
            },
            Life::Closed => (Life::Closed, None),
        });
    }

    /// Changes the state. The caller drops the returned descriptor outside the lock, because closing
    /// a descriptor with SO_LINGER can take long.
    fn replace(
        &self,
        step: impl FnOnce(Life) -> (Life, Option<Arc<OwnedFd>>),
    ) -> Option<Arc<OwnedFd>> {
        let mut state = self.lock();
        let (life, released) = step(std::mem::replace(&mut state.life, Life::Closed));
        state.life = life;
        released
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics midway, so a poisoned state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
