//! `saltecho keygen`: a new random key.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use data_encoding::{BASE64, HEXLOWER};
use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output;

/// Print a new key for a key file: 32 random bytes from the operating system.
#[derive(Args, Debug)]
#[command(after_long_help = KEYGEN_EXAMPLES)]
pub(super) struct KeygenArgs {
    /// Encoding of the key
    #[arg(long, value_enum, value_name = "ENCODING", default_value_t = Encoding::Base64)]
    #[arg(env = "SALTECHO_ENCODING", hide_env_values = true)]
    encoding: Encoding,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Encoding {
    Base64,
    Hex,
}

const KEYGEN_EXAMPLES: &str = "\
Examples:
  (umask 077; saltecho keygen > new.key)
  saltecho keygen --encoding hex";

/// RFC 2104 asks for a key as long as the hash; this is the length of SHA-256.
const KEY_LEN: usize = 32;

pub(super) fn run(args: &KeygenArgs) -> Result<(), Failure> {
    let line = Zeroizing::new(format!("{}\n", *fresh(args.encoding)?));
    Ok(output::print(&line)?)
}

/// A new key as a line of a key file, without the line feed.
pub(super) fn fresh(encoding: Encoding) -> Result<Zeroizing<String>> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    SysRng.try_fill_bytes(&mut *key).context("cannot get random bytes from the system")?;
    Ok(Zeroizing::new(match encoding {
        Encoding::Base64 => format!("base64:{}", BASE64.encode(&*key)),
        Encoding::Hex => format!("hex:{}", HEXLOWER.encode(&*key)),
    }))
}
