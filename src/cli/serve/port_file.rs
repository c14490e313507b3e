//! The file with the server's ports (--port-file).
//!
//! A regular file is replaced atomically, so that a reader sees all ports or none. Anything else (a
//! FIFO, a terminal, a descriptor under /dev/fd) is written to and never replaced.

use std::fs::{self, File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use crate::cli::blocking::Blocking;
use crate::cli::log::Log;

/// Maximum number of symbolic links to follow, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The destination of the ports.
pub(super) struct PortFile {
    /// The path as given, for errors.
    path: PathBuf,
    place: Place,
}

enum Place {
    /// A regular file or nothing yet, at a path that is not a link.
    Regular(PathBuf),
    /// A FIFO, which can be opened only once there is a reader.
    Fifo,
    /// A thing that cannot be replaced: a device, a descriptor, a bind-mounted file.
    Fixed,
    /// Standard output (`-`).
    Stdout,
}

impl PortFile {
    /// Finds the place that a path names. `others` are files that the server reads, and what they
    /// are.
    ///
    /// # Errors
    /// If the path cannot be resolved, or names something that cannot hold ports, one of the
    /// `others`, or the file that the log goes to.
    pub(super) fn find(path: &Path, others: &[(&str, Option<&Path>)]) -> Result<Self> {
        let place = Place::find(path).and_then(|place| place.unless_in_use(others));
        Ok(Self { path: path.to_owned(), place: place.with_context(|| cannot_write(path))? })
    }

    /// Removes the ports of an earlier run, so that a reader cannot mistake them for the new ones.
    ///
    /// # Errors
    /// If that is not possible.
    pub(super) fn clear(self) -> Result<Self> {
        let Self { path, place } = self;
        let place = place.clear().with_context(|| cannot_write(&path))?;
        Ok(Self { path, place })
    }

    /// Writes one port per line. For a FIFO a thread waits for the reader; if that fails, it logs a
    /// warning.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write(self, addresses: &[SocketAddr], log: &Log) -> Result<()> {
        let ports = addresses.iter().map(|address| format!("{}\n", address.port()));
        let ports: String = ports.collect();
        let Self { path, place } = self;
        let written = match place {
            Place::Regular(target) => replace(&target, ports.as_bytes()),
            Place::Fixed => append(&path, ports.as_bytes()),
            Place::Stdout => Blocking(io::stdout()).write_all(ports.as_bytes()),
            Place::Fifo => {
                let (log, path) = (log.downgrade(), path.clone());
                let wait = move || {
                    if let Err(error) = append(&path, ports.as_bytes())
                        && let Some(log) = log.upgrade()
                    {
                        log.warn(format_args!("{}: {error}", cannot_write(&path)));
                    }
                };
                std::thread::Builder::new().name("port file".to_owned()).spawn(wait).map(drop)
            }
        };
        written.with_context(|| cannot_write(&path))
    }

    /// Writes the same ports once more, in the name of a process that has taken over. What its readers
    /// have had already is left alone, and a failure is a warning: the service runs.
    pub(super) fn write_again(self, addresses: &[SocketAddr], log: &Log) {
        if let Place::Regular(_) = self.place
            && let Err(error) = self.write(addresses, log)
        {
            log.warn(format_args!("{error:#}"));
        }
    }
}

impl Place {
    fn find(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            // A link in /proc stands for an open file, perhaps a pipe or a deleted file: only the
            // kernel can follow it.
            if is_in_proc(&path) {
                return match Self::of_kind(fs::metadata(&path)?.file_type(), path)? {
                    Self::Regular(_) => Ok(Self::Fixed),
                    place => Ok(place),
                };
            }
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_symlink() => {
                    path = directory(&path).join(fs::read_link(&path)?);
                }
                Ok(metadata) => return Self::of_kind(metadata.file_type(), path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Self::Regular(path));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(anyhow!("too many symbolic links"))
    }

    fn of_kind(kind: FileType, path: PathBuf) -> Result<Self> {
        match () {
            () if kind.is_file() => Ok(Self::Regular(path)),
            () if kind.is_fifo() => Ok(Self::Fifo),
            () if kind.is_char_device() => Ok(Self::Fixed),
            () if kind.is_dir() => Err(anyhow!("it is a directory")),
            () if kind.is_socket() => Err(anyhow!("it is a socket")),
            () => Err(anyhow!("it is a block device")),
        }
    }

    /// Refuses a regular file that has another use.
    fn unless_in_use(self, others: &[(&str, Option<&Path>)]) -> Result<Self> {
        let Self::Regular(path) = &self else { return Ok(self) };
        let same = |other: Option<Metadata>| match (fs::metadata(path), other) {
            (Ok(ours), Some(other)) => (ours.dev(), ours.ino()) == (other.dev(), other.ino()),
            _ => false,
        };
        for (what, other) in others {
            let other = other.and_then(|other| fs::metadata(other).ok());
            ensure!(!same(other), "it is {what}: choose another");
        }
        ensure!(!same(metadata_of_stderr()), "the log is written to it: choose another");
        Ok(self)
    }

    /// Removes a regular file, or truncates one that cannot be removed.
    fn clear(self) -> Result<Self> {
        let Self::Regular(path) = &self else { return Ok(self) };
        match fs::remove_file(path) {
            Ok(()) => Ok(self),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self),
            // A bind-mounted file, or a file in another user's directory, cannot be removed.
            Err(error) => match OpenOptions::new().write(true).truncate(true).open(path) {
                Ok(_) => Ok(Self::Fixed),
                Err(_) => Err(error.into()),
            },
        }
    }
}

fn metadata_of_stderr() -> Option<Metadata> {
    File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()
}

fn is_in_proc(path: &Path) -> bool {
    directory(path).canonicalize().is_ok_and(|directory| directory.starts_with("/proc"))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Writes a temporary file and renames it to `path`.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // Readable like any new file, within the umask: the reader may be another user.
    let mut new = tempfile::Builder::new()
        .prefix(".saltecho-ports-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory(path))?;
    new.write_all(content)?;
    new.persist(path).map(drop).map_err(|error| error.error)
}

/// Appends to an existing file. Waits for the reader of a FIFO.
fn append(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().append(true).custom_flags(libc::O_NOCTTY).open(path)?;
    file.write_all(content)
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write the port file {}", path.display())
}
