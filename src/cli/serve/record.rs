//! The recording of a server's loops (--record).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use saltecho::reactor::MioKernel;
use saltecho::trace::{Header, RecordOptions, Recorder};

use crate::cli::failure::{Exit, Failure};
use crate::cli::log::Log;
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

    /// Size at which the recording ends (64m, 2g), for each worker [default: none]
    #[arg(long, value_name = "SIZE", env = "SALTECHO_RECORD_LIMIT", hide_env_values = true)]
    pub(super) record_limit: Option<FileSize>,

    /// Record what clients send, too: all who can read the file can read that
    #[arg(long, env = "SALTECHO_RECORD_PAYLOAD", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) record_payload: bool,
}

/// Files for the recordings of all workers.
pub(super) struct Recording {
    files: Vec<(PathBuf, File)>,
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
            _ => {
                let mut name = path.clone().into_os_string();
                name.push(format!(".{worker}"));
                PathBuf::from(name)
            }
        });
        let files = paths.map(|path| {
            let file = create(&path).with_context(|| format!("--record {}", path.display()))?;
            Ok((path, file))
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
        let (path, file) = &self.files[worker];
        let options =
            RecordOptions { header, keeps_payload: self.keeps_payload, limit: self.limit };
        let (path, log) = (path.display().to_string(), self.log.downgrade());
        let on_end = move |why: &str| {
            if let Some(log) = log.upgrade() {
                log.warn(format_args!(
                    "the recording {path} ends here: {why}; the service goes on"
                ));
            }
        };
        Recorder::to_file(kernel, file.try_clone()?, options, Box::new(on_end))
    }
}

/// Creates a file that only its owner can read. An earlier recording is kept under another name, and
/// nothing else is touched.
fn create(path: &Path) -> Result<File> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => bail!("it is not a regular file"),
        Ok(_) => {
            let mut begin = String::new();
            let file = File::open(path)?.take(Header::BEGIN.len() as u64);
            let is_recording =
                { file }.read_to_string(&mut begin).is_ok() && begin == Header::BEGIN;
            if !is_recording {
                bail!("a file of this name is there, and it is no recording: choose another name");
            }
            let mut old = path.to_owned().into_os_string();
            old.push(".old");
            fs::rename(path, &old).context("cannot rename the recording that is there")?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?)
}
