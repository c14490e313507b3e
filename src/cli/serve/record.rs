//! The recording of a server's loops (--record).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use saltecho::reactor::MioKernel;
use saltecho::trace::{Header, RecordOptions, Recorder, Segments};

use crate::cli::failure::{Exit, Failure};
use crate::cli::log::Log;
use crate::cli::replay::{next_segment, with_suffix};
use crate::cli::values::FileSize;

#[derive(Args, Debug)]
pub(super) struct RecordArgs {
    /// Record every call of the event loop with its result in this file, for `saltecho replay` and
    /// `saltecho explain`
    ///
    /// It has no key, no digest and no payload, and addresses are numbered. A recording that is there
    /// already is kept as FILE.old. With several --workers each has a file: FILE.1, FILE.2, and so on.
    #[arg(long, value_name = "FILE", env = "SALTECHO_RECORD", hide_env_values = true)]
    pub(super) record: Option<PathBuf>,

    /// Size beyond which the beginning of the recording goes (64m, 2g), for each worker [default: none]
    ///
    /// The recording then has two files, FILE and FILE.next, which together are no longer. Each that begins
    /// later begins with a snapshot of the server, so that the last part of the run can be replayed without
    /// the rest.
    #[arg(long, value_name = "SIZE", env = "SALTECHO_RECORD_LIMIT", hide_env_values = true)]
    pub(super) record_limit: Option<FileSize>,

    /// Record what clients send, too: all who can read the file can read that
    #[arg(long, env = "SALTECHO_RECORD_PAYLOAD", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) record_payload: bool,
}

/// Files for the recordings of all workers.
pub(super) struct Recording {
    files: Vec<Files>,
    limit: Option<u64>,
    keeps_payload: bool,
    log: Log,
}

impl RecordArgs {
    /// Refuses flags without effect.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let given = [
            ("--record-limit", "SALTECHO_RECORD_LIMIT", self.record_limit.is_some()),
            ("--record-payload", "SALTECHO_RECORD_PAYLOAD", self.record_payload),
        ];
        match given.into_iter().find(|(.., given)| *given && self.record.is_none()) {
            None => Ok(()),
            Some((flag, variable, _)) => {
                let text = format!("{flag} ({variable}) needs --record FILE");
                Err(Failure::with_message(Exit::Usage, text))
            }
        }
    }

    /// Opens a file for each worker, if there is to be a recording.
    pub(super) fn open(&self, workers: usize, log: &Log) -> Result<Option<Recording>, Failure> {
        let Some(path) = &self.record else { return Ok(None) };
        let paths = (1..=workers).map(|worker| match workers {
            1 => path.clone(),
            _ => with_suffix(path, &format!(".{worker}")),
        });
        let files = paths.map(|path| {
            Files::create(&path).with_context(|| format!("--record {}", path.display()))
        });
        let files: Result<Vec<_>> = files.collect();
        let files = files.map_err(|error| Failure::new(Exit::Usage, error))?;
        if self.record_payload {
            log.warn(format_args!(
                "{} will have all that clients send: delete it when it is no longer needed",
                path.display()
            ));
        }
        let limit = self.record_limit.map(|limit| limit.0);
        Ok(Some(Recording { files, limit, keeps_payload: self.record_payload, log: log.clone() }))
    }
}

impl Recording {
    /// Records a worker's kernel from now on.
    pub(super) fn start(
        &self,
        worker: usize,
        kernel: MioKernel,
        header: Header,
    ) -> io::Result<Recorder<MioKernel>> {
        let files = self.files[worker].try_clone()?;
        let options =
            RecordOptions { header, keeps_payload: self.keeps_payload, limit: self.limit };
        let (path, log) = (files.path.display().to_string(), self.log.downgrade());
        let on_end = move |why: &str| {
            if let Some(log) = log.upgrade() {
                log.warn(format_args!(
                    "the recording {path} ends here: {why}; the service goes on"
                ));
            }
        };
        match self.limit {
            None => Recorder::to_file(kernel, files.current, options, Box::new(on_end)),
            Some(_) => Recorder::to_segments(kernel, files, options, Box::new(on_end)),
        }
    }
}

/// The files of one recording: all of it, or the last segments of a longer one.
struct Files {
    path: PathBuf,
    current: File,
    /// There is a second file, which is the current one.
    has_next: bool,
}

impl Files {
    /// Creates the first file. An earlier recording of its name is kept under another one, and nothing
    /// else is touched.
    fn create(path: &Path) -> Result<Self> {
        let (next, old) = (next_segment(path), with_suffix(path, ".old"));
        let (has_path, has_next) = (is_recording(path)?, is_recording(&next)?);
        // What was kept before goes with both of its files.
        let of_old = next_segment(&old);
        if has_path && is_recording(&of_old)? {
            fs::remove_file(&of_old).context("cannot remove the recording before the last")?;
        }
        for (has, from, to) in [(has_path, path, &old), (has_next, &next, &of_old)] {
            if has {
                fs::rename(from, to).context("cannot rename the recording that is there")?;
            }
        }
        Ok(Self { path: path.to_owned(), current: create(path)?, has_next: false })
    }

    fn try_clone(&self) -> io::Result<Self> {
        let current = self.current.try_clone()?;
        Ok(Self { path: self.path.clone(), current, has_next: self.has_next })
    }
}

impl Write for Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.current.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current.flush()
    }
}

/// At any time the first file is there, and begins the recording that can be replayed.
impl Segments for Files {
    fn begin_next(&mut self) -> io::Result<()> {
        let next = next_segment(&self.path);
        if self.has_next {
            fs::rename(&next, &self.path)?;
        }
        (self.current, self.has_next) = (create(&next)?, true);
        Ok(())
    }
}

/// Returns true if a recording has this name, and false if nothing has.
fn is_recording(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            bail!("{} is not a regular file", path.display())
        }
        Ok(_) => {
            let mut begin = String::new();
            let file = File::open(path)?.take(Header::BEGIN.len() as u64);
            let is_recording =
                { file }.read_to_string(&mut begin).is_ok() && begin == Header::BEGIN;
            if !is_recording {
                bail!("{} is there, and is no recording: choose another name", path.display());
            }
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Creates a file that only its owner can read.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
