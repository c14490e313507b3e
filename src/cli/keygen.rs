use anyhow::Context;
use data_encoding::{BASE64, HEXLOWER};
use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::args::{Encoding, KeygenArgs};
use super::failure::Failure;
use super::output;

/// RFC 2104 asks for a key as long as the hash; this is SHA-256's length.
const KEY_LEN: usize = 32;

pub(super) fn run(args: &KeygenArgs) -> Result<(), Failure> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    SysRng.try_fill_bytes(&mut *key).context("the system has no random bytes")?;
    let line = Zeroizing::new(match args.encoding {
        Encoding::Base64 => format!("base64:{}\n", BASE64.encode(&*key)),
        Encoding::Hex => format!("hex:{}\n", HEXLOWER.encode(&*key)),
    });
    Ok(output::print(&line)?)
}
