#[cfg(feature = "server")]
use super::wire::{Reader, put_counted};
#[cfg(feature = "server")]
use super::{Disguise, Sensitive};
use super::{FrameReader, Piece, frame_header};
#[cfg(feature = "server")]
use crate::auth::KeyId;
use crate::auth::{Key, Keyring, MacAlgorithm, Response};

/// One side's part in the handshake of Python's `multiprocessing.connection`, without I/O: each
/// side sends a challenge and verifies the other's response.
///
/// ```text
/// listener ── #CHALLENGE# ──▶ client     listener ◀── #CHALLENGE# ── client
///          ◀── response ─────                     ── response ─────▶
///          ── #WELCOME# ────▶                     ◀── #WELCOME# ────
/// ```
///
/// Every message is a frame of at most 256 bytes. The algorithm of the keyring chooses the form of
/// the messages: [`MacAlgorithm::Md5`] that of Python up to 3.11, [`MacAlgorithm::Sha256`] that
/// since 3.12, which understands the older one too.
///
/// ```
/// use saltecho::auth::Keyring;
/// use saltecho::proto::{MutualHandshake, Role};
///
/// let keys = Keyring::demo();
/// let mut listener = MutualHandshake::new(Role::Listener, &keys, [1; 40]);
/// let mut client = MutualHandshake::new(Role::Client, &keys, [2; 40]);
/// while listener.outcome().is_none() || client.outcome().is_none() {
///     let sent = listener.unsent().to_vec();
///     listener.handle_sent(sent.len());
///     assert_eq!(client.handle_recv(&keys, &sent), sent.len());
///     let sent = client.unsent().to_vec();
///     client.handle_sent(sent.len());
///     assert_eq!(listener.handle_recv(&keys, &sent), sent.len());
/// }
/// assert_eq!((listener.outcome(), client.outcome()), (Some(Ok(())), Some(Ok(()))));
/// ```
pub struct MutualHandshake {
    role: Role,
    step: Step,
    /// The key that the peer has proved to have, with which it is answered. A copy, since the ring
    /// may be replaced meanwhile.
    key: Option<Key>,
    challenge: [u8; CHALLENGE],
    challenge_len: usize,
    reader: FrameReader,
    /// The payload of the frame that is being received.
    frame: [u8; MAX_FRAME],
    frame_len: usize,
    out: [u8; MAX_OUT],
    out_len: usize,
    sent: usize,
}

/// The side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepted the connection; challenges first.
    Listener,
    /// Made the connection; is challenged first.
    Client,
}

/// The next step of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Challenge,
    Verdict,
    Response,
    Done,
    Failed(HandshakeError),
}

/// The reason for which a mutual handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's response to the challenge was wrong. It gets the message `#FAILURE#`.
    #[error("the digest received was wrong")]
    WrongDigest,
    /// The peer did not accept the response to its challenge.
    #[error("the digest sent was rejected")]
    Refused,
    /// The peer's message was longer than 256 bytes, or not a challenge that Python would answer.
    /// Nothing is sent.
    #[error("the peer's message is not part of the handshake")]
    Malformed,
}

const PREFIX: &[u8] = b"#CHALLENGE#";
const WELCOME: &[u8] = b"#WELCOME#";
const FAILURE: &[u8] = b"#FAILURE#";
/// `{sha256}` and 40 random bytes.
const CHALLENGE: usize = 48;
const TAG: &[u8] = b"{sha256}";
/// Random bytes of a challenge up to Python 3.11.
const BARE_CHALLENGE: usize = 20;
/// Length of the longest message, by CPython's `recv_bytes(256)`.
const MAX_FRAME: usize = 256;
const HEADER: usize = 4;
/// All that a side sends, in case that the peer speaks too soon: its challenge, its response and
/// its verdict.
const MAX_OUT: usize = 3 * HEADER + PREFIX.len() + CHALLENGE + Response::MAX_LEN + WELCOME.len();

impl MutualHandshake {
    /// Begins the handshake of this side with bytes of a cryptographic random source, of which the
    /// older form uses the first 20.
    pub fn new(role: Role, keys: &Keyring, random: [u8; 40]) -> Self {
        let mut challenge = [0; CHALLENGE];
        let challenge_len = match keys.algorithm() {
            MacAlgorithm::Md5 => {
                challenge[..BARE_CHALLENGE].copy_from_slice(&random[..BARE_CHALLENGE]);
                BARE_CHALLENGE
            }
            MacAlgorithm::Sha256 => {
                challenge[..TAG.len()].copy_from_slice(TAG);
                challenge[TAG.len()..].copy_from_slice(&random);
                CHALLENGE
            }
        };
        let mut handshake = Self {
            role,
            step: Step::Challenge,
            key: None,
            challenge,
            challenge_len,
            reader: FrameReader::new(),
            frame: [0; MAX_FRAME],
            frame_len: 0,
            out: [0; MAX_OUT],
            out_len: 0,
            sent: 0,
        };
        if role == Role::Listener {
            handshake.send_challenge();
        }
        handshake
    }

    /// Bytes to send. Nothing is to be received before they are sent.
    #[inline(never)]
    pub fn unsent(&self) -> &[u8] {
        &self.out[self.sent..self.out_len]
    }

    /// Reports that the kernel took the first `n` bytes of [`unsent`](Self::unsent).
    #[inline(never)]
    pub const fn handle_sent(&mut self, n: usize) {
        self.sent += n;
    }

    /// Takes the bytes of `data` that belong to the handshake; returns their number. The rest
    /// belongs to what follows.
    #[must_use = "the bytes after these are not part of the handshake"]
    pub fn handle_recv(&mut self, keys: &Keyring, data: &[u8]) -> usize {
        let mut at = 0;
        while at < data.len() {
            match self.step {
                Step::Done => break,
                // It is over; what still comes is of no interest.
                Step::Failed(_) => return data.len(),
                Step::Challenge | Step::Verdict | Step::Response => {}
            }
            let is_complete = match self.reader.read(&data[at..]) {
                Piece::Header { len, payload } => {
                    at += len;
                    if payload.is_some_and(|payload| payload > MAX_FRAME as u64) {
                        self.step = Step::Failed(HandshakeError::Malformed);
                    }
                    payload == Some(0)
                }
                Piece::Payload { len, is_last } => {
                    self.frame[self.frame_len..self.frame_len + len]
                        .copy_from_slice(&data[at..at + len]);
                    (at, self.frame_len) = (at + len, self.frame_len + len);
                    is_last
                }
            };
            if is_complete {
                self.handle_frame(keys);
                self.frame_len = 0;
            }
        }
        at
    }

    /// The result; `None` while something has to be sent or received. Bytes of a success may be
    /// unsent.
    #[inline(never)]
    pub fn outcome(&self) -> Option<Result<(), HandshakeError>> {
        match self.step {
            Step::Done => Some(Ok(())),
            Step::Failed(error) if self.unsent().is_empty() => Some(Err(error)),
            Step::Failed(_) | Step::Challenge | Step::Verdict | Step::Response => None,
        }
    }

    /// The reason for a failure, also while it is being reported to the peer.
    #[inline(never)]
    pub const fn error(&self) -> Option<HandshakeError> {
        match self.step {
            Step::Failed(error) => Some(error),
            Step::Challenge | Step::Verdict | Step::Response | Step::Done => None,
        }
    }

    /// The key that the peer has proved to have.
    pub const fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Returns true while the peer's first message is awaited.
    pub fn is_first(&self) -> bool {
        let first = match self.role {
            Role::Listener => Step::Response,
            Role::Client => Step::Challenge,
        };
        self.step == first
    }

    /// Writes all that another loop needs to go on, the proved key by its identifier only. For a
    /// listener.
    #[cfg(feature = "server")]
    pub(super) fn park(&self, disguise: &mut dyn Disguise, out: &mut Vec<u8>) {
        debug_assert_eq!(self.role, Role::Listener, "only a server moves");
        out.push(match self.step {
            Step::Challenge => 1,
            Step::Verdict => 2,
            Step::Response => 3,
            Step::Failed(HandshakeError::WrongDigest) => 4,
            Step::Failed(HandshakeError::Refused) => 5,
            Step::Failed(HandshakeError::Malformed) => 6,
            Step::Done => 7,
        });
        let (challenge, frame) =
            (&self.challenge[..self.challenge_len], &self.frame[..self.frame_len]);
        put_counted(out, &disguise.bytes(Sensitive::Challenge, challenge));
        put_counted(out, &disguise.bytes(Sensitive::Frame, frame));
        put_counted(out, &disguise.bytes(Sensitive::Unsent, self.unsent()));
        let key = self.key.as_ref().map(|key| key.id().to_bytes());
        let key = key.as_ref().map_or(&[][..], |id| id);
        put_counted(out, &disguise.bytes(Sensitive::ProvedKey, key));
        self.reader.park(out);
    }

    /// Reads what [`park`](Self::park) wrote, with the identifier of the proved key; `None` if that is
    /// impossible.
    #[cfg(feature = "server")]
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<(Self, Option<KeyId>)> {
        let (step, needs_key) = match reader.u8()? {
            1 => (Step::Challenge, true),
            2 => (Step::Verdict, true),
            3 => (Step::Response, false),
            4 => (Step::Failed(HandshakeError::WrongDigest), false),
            5 => (Step::Failed(HandshakeError::Refused), false),
            6 => (Step::Failed(HandshakeError::Malformed), false),
            // One that is done is over.
            _ => return None,
        };
        let challenge_bytes = reader.counted(CHALLENGE)?;
        let is_challenge = matches!(challenge_bytes.len(), BARE_CHALLENGE | CHALLENGE);
        let (begun, unsent) = (reader.counted(MAX_FRAME)?, reader.counted(MAX_OUT)?);
        let key = match reader.counted(4)? {
            [] => None,
            id => Some(KeyId::from_bytes(id.try_into().ok()?)),
        };
        let (frames, _) = FrameReader::unpark(reader.bytes(10)?)?;
        let is_over = matches!(step, Step::Failed(_));
        let fits = match frames.payload_left() {
            Some(left) => left <= (MAX_FRAME - begun.len()) as u64,
            None => begun.is_empty(),
        };
        if !is_challenge || !(fits || is_over) || needs_key && key.is_none() {
            return None;
        }
        let (mut challenge, mut frame, mut out) = ([0; CHALLENGE], [0; MAX_FRAME], [0; MAX_OUT]);
        challenge[..challenge_bytes.len()].copy_from_slice(challenge_bytes);
        frame[..begun.len()].copy_from_slice(begun);
        out[..unsent.len()].copy_from_slice(unsent);
        let handshake = Self {
            role: Role::Listener,
            step,
            key: None,
            challenge,
            challenge_len: challenge_bytes.len(),
            reader: frames,
            frame,
            frame_len: begun.len(),
            out,
            out_len: unsent.len(),
            sent: 0,
        };
        Some((handshake, key))
    }

    /// Takes the proved key from the ring. If it was removed meanwhile the peer cannot be answered, so
    /// the handshake has failed.
    #[cfg(feature = "server")]
    pub(super) fn find_key(&mut self, keys: &Keyring, id: KeyId) {
        self.key = keys.ids().iter().position(|one| *one == id).map(|key| keys.secret(key).clone());
        if self.key.is_none() && !matches!(self.step, Step::Failed(_)) {
            self.step = Step::Failed(HandshakeError::Refused);
        }
    }

    fn handle_frame(&mut self, keys: &Keyring) {
        let frame = &self.frame[..self.frame_len];
        self.step = match self.step {
            Step::Response => {
                match keys.verify_response(&self.challenge[..self.challenge_len], frame) {
                    Some(key) => {
                        self.key = Some(keys.secret(key).clone());
                        self.send(&[WELCOME]);
                        match self.role {
                            Role::Listener => Step::Challenge,
                            Role::Client => Step::Done,
                        }
                    }
                    None => {
                        self.send(&[FAILURE]);
                        Step::Failed(HandshakeError::WrongDigest)
                    }
                }
            }
            Step::Challenge => {
                let key = self.key.as_ref().unwrap_or_else(|| keys.secret(0));
                let challenge = frame.strip_prefix(PREFIX);
                match challenge.and_then(|challenge| keys.algorithm().respond(key, challenge)) {
                    Some(response) => {
                        self.send(&[response.as_bytes()]);
                        Step::Verdict
                    }
                    None => Step::Failed(HandshakeError::Malformed),
                }
            }
            Step::Verdict if frame != WELCOME => Step::Failed(HandshakeError::Refused),
            Step::Verdict => match self.role {
                Role::Listener => Step::Done,
                Role::Client => {
                    self.send_challenge();
                    Step::Response
                }
            },
            step @ (Step::Done | Step::Failed(_)) => step,
        };
    }

    fn send_challenge(&mut self) {
        let challenge = self.challenge;
        self.send(&[PREFIX, &challenge[..self.challenge_len]]);
        self.step = Step::Response;
    }

    /// Appends a frame to the unsent bytes.
    fn send(&mut self, payload: &[&[u8]]) {
        if self.sent == self.out_len {
            (self.sent, self.out_len) = (0, 0);
        }
        let len: usize = payload.iter().map(|part| part.len()).sum();
        let header = frame_header(len as u64);
        for part in std::iter::once(header.as_ref()).chain(payload.iter().copied()) {
            self.out[self.out_len..self.out_len + part.len()].copy_from_slice(part);
            self.out_len += part.len();
        }
    }
}

impl std::fmt::Debug for MutualHandshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { role, step, .. } = self;
        write!(f, "MutualHandshake {{ role: {role:?}, step: {step:?} }}")
    }
}
