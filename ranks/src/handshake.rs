//! The first frames of a connection: each side proves that it knows the key, and neither shows it.
//!
//! ```text
//! connects   Hello(nonce, …) ─▶            Proof ─▶
//! accepts                    ◀─ Challenge          ◀─ Welcome, or Refusal
//! ```

use std::{io, net::TcpStream, time::Duration};

use crate::{
    frame::{Frame, FrameKind},
    key::{NONCE, NodeKey, PROOF, nonce},
    message::Hello,
};

/// Time for each frame of it but the last.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// What a proof is of, so that none serves the other side.
const ACCEPTS: &[u8] = b"quern node accepts";
const CONNECTS: &[u8] = b"quern node connects";

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The connection itself failed; the next one may not.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side says why.
    #[error("{0}")]
    Refused(String),
    /// The other side is not what it should be.
    #[error("{0}")]
    Foreign(String),
}

/// Say `hello` over `stream`, and wait up to `limit` to be welcome: what the welcome says.
pub(crate) fn connect(
    stream: &TcpStream,
    hello: &Hello,
    key: &NodeKey,
    limit: Duration,
) -> Result<Vec<u8>, HandshakeError> {
    let record = hello.write();
    Frame::send(FrameKind::Hello, &record, stream)?;
    let challenge = expect(stream, FrameKind::Challenge, LIMIT)?;
    let Some((nonce, proof)) = challenge.split_first_chunk::<NONCE>() else {
        return Err(HandshakeError::Foreign("its challenge is cut off".into()));
    };
    if !key.checks(&[ACCEPTS, &record, nonce], proof) {
        return Err(HandshakeError::Foreign("it has another key: give all nodes the same --dist-key-file".into()));
    }
    Frame::send(FrameKind::Proof, &key.prove(&[CONNECTS, &record, nonce]), stream)?;
    expect(stream, FrameKind::Welcome, limit)
}

/// Who has connected over `stream`. It waits to be [welcome](FrameKind::Welcome) or [refused](refuse).
pub(crate) fn accept(stream: &TcpStream, key: &NodeKey) -> Result<Hello, HandshakeError> {
    stream.set_write_timeout(Some(LIMIT))?;
    let Frame { kind: FrameKind::Hello, record } = receive(stream, LIMIT)? else {
        return Err(HandshakeError::Foreign("it does not begin with a hello".into()));
    };
    let hello = Hello::read(&record).map_err(|error| HandshakeError::Foreign(error.to_string()));
    let hello = hello.inspect_err(|error| refuse(stream, &error.to_string()))?;
    let nonce = nonce()?;
    let proof: [u8; PROOF] = key.prove(&[ACCEPTS, &record, &nonce]);
    Frame::send(FrameKind::Challenge, &[nonce, proof].concat(), stream)?;
    let proof = expect(stream, FrameKind::Proof, LIMIT)?;
    if !key.checks(&[CONNECTS, &record, &nonce], &proof) {
        refuse(stream, "the key is another one");
        return Err(HandshakeError::Foreign("it has another key".into()));
    }
    Ok(hello)
}

/// Tell the other side why it is not welcome. It may have gone.
pub(crate) fn refuse(stream: &TcpStream, reason: &str) {
    let mut end = reason.len().min(FrameKind::Refusal.max_len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let _ = Frame::send(FrameKind::Refusal, &reason.as_bytes()[..end], stream);
}

/// The record of the next frame, which is of this kind.
fn expect(stream: &TcpStream, kind: FrameKind, limit: Duration) -> Result<Vec<u8>, HandshakeError> {
    match receive(stream, limit)? {
        frame if frame.kind == kind => Ok(frame.record),
        Frame { kind: FrameKind::Refusal, record } => {
            Err(HandshakeError::Refused(String::from_utf8_lossy(&record).into_owned()))
        }
        frame => Err(HandshakeError::Foreign(format!("it sends {:?} where {kind:?} belongs", frame.kind))),
    }
}

fn receive(stream: &TcpStream, limit: Duration) -> Result<Frame, HandshakeError> {
    Frame::receive(stream, limit).map_err(|error| match error.kind() {
        io::ErrorKind::Other => HandshakeError::Foreign(error.to_string()),
        _ => error.into(),
    })
}
