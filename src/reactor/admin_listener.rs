//! The listening socket of an admin endpoint: TCP, or a Unix socket whose file only its owner may
//! open.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with};

/// `listen(backlog)` of an admin endpoint: few clients, which wait while all places are taken.
const BACKLOG: i32 = 64;

/// The address of an admin endpoint: an IP address and a port, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AdminAddress {
    /// TCP. Anyone who can reach the port may use the endpoint.
    Tcp(SocketAddr),
    /// A Unix socket at this path. Only processes of its owner, and root's, may use the endpoint.
    Unix(PathBuf),
}

impl AdminAddress {
    /// The prefix of a Unix socket's path.
    const UNIX: &str = "unix:";

    /// Returns true if only this machine reaches the address.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}{}", Self::UNIX, path.display()),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(Self::UNIX) {
            Some("") => Err("the path is missing behind `unix:`"),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(
                |_| "expected an IP address and a port like 127.0.0.1:9998, or unix: and a path",
            ),
        }
    }
}

/// The listening socket of an admin endpoint, with a descriptor in reserve.
#[derive(Debug)]
pub struct AdminListener {
    socket: OwnedFd,
    address: AdminAddress,
    /// Given up for a client when the process has no other descriptor left.
    spare: Option<OwnedFd>,
    /// Dropped after the socket, so that nothing connects to a file without a listener for long.
    file: Option<SocketFile>,
}

impl AdminListener {
    /// Listens at `address`. A Unix socket is open to its owner alone from the start, whatever the
    /// umask, and replaces one that a process has left behind.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and listen(2); AlreadyExists for a path that is no socket,
    /// AddrInUse for a socket at which a process listens.
    pub fn bind(address: &AdminAddress) -> io::Result<Self> {
        match address {
            AdminAddress::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                let address = AdminAddress::Tcp(listener.local_addr()?);
                Self::new(listener.into(), address, None)
            }
            AdminAddress::Unix(path) => {
                let (socket, file) = bind_unix(path)?;
                Self::new(socket, address.clone(), Some(file))
            }
        }
    }

    /// Takes over a listening socket of TCP.
    ///
    /// # Errors
    /// Those of getsockname(2) and fcntl(2).
    pub fn from_tcp(listener: TcpListener) -> io::Result<Self> {
        let address = AdminAddress::Tcp(listener.local_addr()?);
        Self::new(listener.into(), address, None)
    }

    /// Takes over a listening Unix socket, whose file stays the business of its creator.
    ///
    /// # Errors
    /// Those of getsockname(2) and fcntl(2).
    pub fn from_unix(listener: UnixListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let path = address.as_pathname().unwrap_or(Path::new("")).to_owned();
        Self::new(listener.into(), AdminAddress::Unix(path), None)
    }

    /// Takes over a listening socket from another process, as it is. Its file stays the other's until
    /// [`own_file`](Self::own_file).
    ///
    /// # Errors
    /// Those of getsockname(2), and a lack of descriptors.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let name = rustix::net::getsockname(&socket)?;
        let address = match name.address_family() {
            AddressFamily::UNIX => {
                let name = SocketAddrUnix::try_from(name)?;
                let path = name.path_bytes().unwrap_or_default();
                AdminAddress::Unix(OsStr::from_bytes(path).into())
            }
            _ => AdminAddress::Tcp(name.try_into()?),
        };
        Ok(Self { socket, address, spare: Some(spare_descriptor()?), file: None })
    }

    /// Returns true if a file is removed with it.
    pub(super) const fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Removes the socket's file with it from now on, if there is one.
    pub(super) fn own_file(&mut self) {
        if let AdminAddress::Unix(path) = &self.address {
            self.file = SocketFile::at(path).ok();
        }
    }

    /// Leaves the file to another process, which listens at the same socket.
    pub(super) fn leave_file(&mut self) {
        if let Some(file) = self.file.take() {
            std::mem::forget(file);
        }
    }

    fn new(socket: OwnedFd, address: AdminAddress, file: Option<SocketFile>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, address, spare: Some(spare_descriptor()?), file })
    }

    /// Where it listens; port 0 has become a real one.
    pub const fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// Accepts a client, whose socket does not block.
    pub(super) fn accept(&mut self) -> io::Result<OwnedFd> {
        if self.spare.is_none() {
            self.spare = spare_descriptor().ok();
        }
        let accept = || accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
        let accepted = match accept() {
            Err(Errno::MFILE | Errno::NFILE) if self.spare.take().is_some() => accept(),
            result => result,
        };
        if accepted.is_err() && self.spare.is_none() {
            self.spare = spare_descriptor().ok();
        }
        Ok(accepted?)
    }
}

impl AsFd for AdminListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn spare_descriptor() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}

/// Binds a Unix socket and listens, with the file that was created for it.
fn bind_unix(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    // Linux takes one byte more, and then there is no zero behind it, without which most clients
    // could not name the socket.
    let name = Some(path).filter(|path| (1..=107).contains(&path.as_os_str().len()));
    let name = name.and_then(|path| SocketAddrUnix::new(path).ok()).ok_or_else(|| {
        let text = "the path of a Unix socket has 1 to 107 bytes, none of them zero";
        io::Error::new(ErrorKind::InvalidInput, text)
    })?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux creates the file with the mode of the socket (unix_bind_bsd), so there is no moment in
    // which it has another.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let _lock = lock_directory(path);
    match rustix::net::bind(&socket, &name) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path, &name)?;
            rustix::net::bind(&socket, &name)?;
        }
        result => result?,
    }
    let file = SocketFile::at(path)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((socket, file))
}

/// Removes the file of a socket at which no process listens any more.
fn remove_stale(path: &Path, name: &SocketAddrUnix) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        let text = "the file exists and is not a socket: remove it, or choose another path";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    // With a full queue a blocking connect would wait for a process that does not accept.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, name) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Ok(()) | Err(Errno::AGAIN) => {
            let text = "another process listens at this socket: stop it, or choose another path";
            Err(io::Error::new(ErrorKind::AddrInUse, text))
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps other processes from finding the same stale file, and from removing the file that takes
/// its place. Where the directory cannot be locked, there is no such protection.
fn lock_directory(path: &Path) -> Option<std::fs::File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = std::fs::File::open(parent.unwrap_or(Path::new("."))).ok()?;
    flock(&directory, FlockOperation::LockExclusive).ok()?;
    Some(directory)
}

/// The file of a Unix socket, which is removed with it, unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        // Absolute, since the process may change its directory.
        Ok(Self { path: std::path::absolute(path)?, identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _lock = lock_directory(&self.path);
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // What remains is replaced by the next process.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn unix(path: &Path) -> AdminAddress {
        AdminAddress::Unix(path.to_owned())
    }

    #[test]
    fn addresses_are_an_ip_address_and_a_port_or_a_path() {
        for text in ["127.0.0.1:9998", "[::1]:0", "unix:/run/saltecho.sock", "unix:a b"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        for text in ["", "9998", "localhost:1", "unix:", "/run/saltecho.sock"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text:?}");
        }
        let local = |text: &str| text.parse::<AdminAddress>().unwrap().is_local();
        assert!(local("127.0.0.9:1") && local("[::1]:1") && local("[::ffff:127.0.0.1]:1"));
        assert!(local("unix:a") && !local("0.0.0.0:1") && !local("[::]:1"));
    }

    #[test]
    fn a_socket_file_is_its_owners_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let listener = AdminListener::bind(&unix(&path)).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_process_that_does_not_accept_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let name = SocketAddrUnix::new(&path).unwrap();
        let socket = || {
            let (family, flags) = (AddressFamily::UNIX, SocketFlags::NONBLOCK);
            rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap()
        };
        let busy = socket();
        rustix::net::bind(&busy, &name).unwrap();
        rustix::net::listen(&busy, 0).unwrap();
        let queued = std::iter::repeat_with(socket)
            .take_while(|client| rustix::net::connect(client, &name) != Err(Errno::AGAIN));
        let _queued: Vec<OwnedFd> = queued.collect();
        let error = AdminListener::bind(&unix(&path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    }

    #[test]
    fn one_of_many_gets_the_place_of_a_stale_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        for _ in 0..1000 {
            drop(UnixListener::bind(&path).unwrap());
            let bound = std::thread::scope(|scope| {
                let bind = || AdminListener::bind(&unix(&path)).ok();
                let all: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
                let ended = all.into_iter().filter_map(|one| one.join().unwrap());
                ended.collect::<Vec<_>>()
            });
            assert_eq!(bound.len(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_stale_file_is_replaced_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = AdminListener::bind(&unix(&path)).unwrap();
        let error = AdminListener::bind(&unix(&path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        UnixStream::connect(&path).unwrap();
        // Another process replaced the file: it is not ours to remove.
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        let error = AdminListener::bind(&unix(&path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn a_path_that_is_too_long_is_refused() {
        for path in ["", "a\0b", &"x".repeat(108)] {
            let error = AdminListener::bind(&unix(Path::new(path))).unwrap_err();
            assert!(error.to_string().contains("107 bytes"), "{path:?}: {error}");
        }
    }

    #[test]
    fn accepting_without_clients_would_block() {
        let any = AdminAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listener = AdminListener::bind(&any).unwrap();
        assert_ne!(*listener.address(), any, "port 0 has become a real one");
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
