//! Where keys come from: a file that nobody else has access to, or the demo key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use saltecho::auth::{Key, Keyring, MacAlgorithm, parse_key_file};
use zeroize::Zeroizing;

/// What both sides have to agree on.
#[derive(Args, Clone, Debug)]
pub(super) struct KeyArgs {
    /// The file with the shared key [default: the demo key, which everybody knows]
    ///
    /// One key a line, at most four: as plain text, or with `hex:`, `base64:` or `text:` in front;
    /// `#` begins a comment line. A server accepts each of them, a client uses the first. Only its
    /// owner may have access to the file; if root owns it, its group may read it.
    #[arg(short, long, value_name = "FILE", env = "SALTECHO_KEY_FILE", hide_env_values = true)]
    pub(super) key_file: Option<PathBuf>,

    /// Accept a key file that other users can read or replace
    ///
    /// Skips the check of its owner and mode. It is meant for secrets that a container mounts
    /// read-only with mode 0444 or 0644, where only the service itself runs.
    #[arg(long, env = "SALTECHO_ALLOW_EXPOSED_KEY", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) allow_exposed_key: bool,

    /// Accept keys shorter than 16 bytes, which can be guessed
    #[arg(long, env = "SALTECHO_ALLOW_WEAK_KEY", hide_env_values = true)]
    #[arg(value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) allow_weak_key: bool,

    /// The hash under the HMAC; both sides must use the same
    #[arg(long, value_enum, value_name = "HASH", default_value_t = Mac::Md5)]
    #[arg(env = "SALTECHO_MAC", hide_env_values = true)]
    pub(super) mac: Mac,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Mac {
    /// HMAC-MD5, as in the tutorial
    Md5,
    /// HMAC-SHA-256
    Sha256,
}

impl From<Mac> for MacAlgorithm {
    fn from(mac: Mac) -> Self {
        match mac {
            Mac::Md5 => Self::Md5,
            Mac::Sha256 => Self::Sha256,
        }
    }
}

/// Four keys of the longest hash's block size, in hexadecimal and with comments, take a fraction.
const MAX_LEN: u64 = 64 << 10;

impl KeyArgs {
    /// Reads the keys: never none, and those of the file if there is one.
    pub(super) fn load(&self) -> Result<Vec<Key>> {
        match &self.key_file {
            None => Ok(vec![Key::demo()]),
            Some(path) => self.read(path).with_context(|| format!("key file {}", path.display())),
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<Key>> {
        // Opening a FIFO would wait for its writer without O_NONBLOCK. Symbolic links are followed,
        // since secrets are often mounted as links: what is judged is the file that was opened.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "there is no such file; `(umask 077; saltecho keygen > {})` makes one",
                path.display()
            ),
            result => result.context("cannot open it")?,
        };
        check_kind(&file)?;
        if !self.allow_exposed_key {
            check_access(&file, path)?;
        }
        let mut text = Zeroizing::new(Vec::new());
        // One byte more than is allowed shows that there is too much, and no reallocation on the way
        // leaves a copy of a secret behind.
        text.reserve_exact(usize::try_from(MAX_LEN + 1).expect("it is 64 KiB"));
        file.take(MAX_LEN + 1).read_to_end(&mut text).context("cannot read it")?;
        ensure!(text.len() as u64 <= MAX_LEN, "it is larger than 64 KiB, which no key file is");
        Ok(parse_key_file(&text, self.allow_weak_key)?)
    }
}

/// The keys that a server accepts, and what may be said of them in public.
pub(super) struct Keys {
    pub(super) keyring: Keyring,
    pub(super) names: String,
}

impl Keys {
    /// Reads the keys for a server at these addresses.
    ///
    /// The demo key keeps nobody out, so it is refused where strangers could connect.
    pub(super) fn for_server(args: &KeyArgs, listen: &[SocketAddr]) -> Result<Self> {
        let keys = args.load()?;
        let exposed = listen.iter().find(|address| !is_loopback(address));
        if let Some(address) = exposed.filter(|_| keys.contains(&Key::demo())) {
            bail!(
                "the demo key, which everybody knows, must not serve {address}: make a key with \
                 `(umask 077; saltecho keygen > saltecho.key)` and give it with -k saltecho.key"
            );
        }
        let names: Vec<String> = keys.iter().map(public_name).collect();
        let names = match names.len() {
            1 => format!("key {}", names[0]),
            _ => format!("one of the keys {}", names.join(", ")),
        };
        Ok(Self { keyring: Keyring::new(args.mac.into(), &keys)?, names })
    }
}

/// Whether only this machine can connect to an address.
pub(super) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// What may be said of a key: a weak one could be guessed from its id.
pub(super) fn public_name(key: &Key) -> String {
    if *key == Key::demo() {
        format!("{} (the demo key)", key.id())
    } else if key.is_weak() {
        "(weak)".to_owned()
    } else {
        key.id().to_string()
    }
}

/// A pipe would have to be waited for, and could not be read again on SIGHUP.
fn check_kind(file: &File) -> Result<()> {
    let kind = file.metadata().context("cannot examine it")?.file_type();
    ensure!(
        kind.is_file(),
        "it is {}, not a regular file",
        match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_fifo() => "a pipe",
            () => "a device or a socket",
        }
    );
    Ok(())
}

/// Who can read the file can talk to the server, and who owns it can choose its keys.
///
/// The rule is PostgreSQL's for its private key: no access for others; none for the group either,
/// unless root owns the file, as where a service reads it through its group.
fn check_access(file: &File, path: &Path) -> Result<()> {
    const MOUNTED: &str = "--allow-exposed-key accepts it where it is mounted so";
    let metadata = file.metadata().context("cannot examine it")?;
    let mode = metadata.mode() & 0o7777;
    let path = path.display();
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    ensure!(
        owner == own || owner == 0,
        "it belongs to user {owner}, who could exchange the key: `chown {own} {path}` if it is \
         yours; {MOUNTED}"
    );
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    ensure!(
        mode & forbidden == 0,
        "others have access to it (mode {mode:04o}): `chmod 600 {path}`; {MOUNTED}"
    );
    Ok(())
}
