//! [`Frame`]: what goes over a connection between two nodes, a header of 16 bytes and a record.
//!
//! ```text
//! kind u32 │ bytes of the record u32 │ number of this frame on this connection and direction u64 │ record
//! ```

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Bytes of a header.
pub(crate) const HEADER: usize = 16;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Who connects.
    Hello,
    /// That the other one knows the key, and a question for the first.
    Challenge,
    /// That the first one knows it too.
    Proof,
    /// The connection is taken.
    Welcome,
    /// It is not, and why.
    Refusal,
    /// The sender is there.
    Beat,
    /// Its weights are in memory.
    Loaded,
    /// A rank of the sender has failed for good, and why.
    Failed,
    /// The sender was asked to end, and waits for node 0 to end first.
    Leaving,
    /// The sender ends, and all is well.
    Goodbye,
    /// A step to compute.
    Step,
    /// Numbers to add up or to put side by side.
    Floats,
}

impl FrameKind {
    /// All of them; a kind's number is its place here.
    pub const ALL: [Self; 12] = [
        Self::Hello,
        Self::Challenge,
        Self::Proof,
        Self::Welcome,
        Self::Refusal,
        Self::Beat,
        Self::Loaded,
        Self::Failed,
        Self::Leaving,
        Self::Goodbye,
        Self::Step,
        Self::Floats,
    ];

    /// Most bytes of a record of this kind. A reader of [`Floats`](Self::Floats) knows how many come.
    pub fn max_len(self) -> usize {
        match self {
            Self::Hello | Self::Welcome => 16 << 10,
            Self::Challenge | Self::Proof => 64,
            Self::Refusal | Self::Failed => 4 << 10,
            Self::Beat | Self::Loaded | Self::Leaving | Self::Goodbye => 0,
            Self::Step => 256 << 20,
            Self::Floats => u32::MAX as usize,
        }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) len: usize,
    pub(crate) number: u64,
}

impl FrameHeader {
    pub(crate) fn write(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let kind = FrameKind::ALL.iter().position(|kind| *kind == self.kind).expect("all kinds are listed");
        bytes[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::try_from(self.len).expect("a record below 4 GiB").to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// What `bytes` say.
    ///
    /// # Errors
    /// If there is no such kind, or the record is longer than any of its kind.
    pub(crate) fn read(bytes: [u8; HEADER]) -> Result<Self, String> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let kind = *FrameKind::ALL.get(word(0)).ok_or("it speaks another protocol")?;
        let number = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
        match word(4) {
            len if len <= kind.max_len() => Ok(Self { kind, len, number }),
            len => Err(format!("it sends {len} bytes of {kind:?}, at most {} are taken", kind.max_len())),
        }
    }

    /// Whether `bytes`, at least a header's, begin with this one.
    ///
    /// # Errors
    /// If they do not: the rest means nothing.
    pub(crate) fn check(self, bytes: &[u8]) -> io::Result<()> {
        let header = bytes.first_chunk::<HEADER>().expect("a header has come");
        match Self::read(*header) {
            Ok(header) if header == self => Ok(()),
            Ok(header) => Err(io::Error::other(format!("{header:?} came where {self:?} belongs"))),
            Err(cause) => Err(io::Error::other(cause)),
        }
    }
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: FrameKind,
    /// What it says.
    pub record: Vec<u8>,
}

impl Frame {
    /// The first frame in `bytes`, as far as the bytes go: what a reader of a connection makes of them.
    ///
    /// # Errors
    /// If they begin no frame, or a part of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or("less than a header")?;
        let FrameHeader { kind, len, .. } = FrameHeader::read(header.try_into().expect("a header"))?;
        let record = rest.get(..len).ok_or_else(|| format!("{len} bytes are announced, {} are here", rest.len()))?;
        Ok(Self { kind, record: record.to_vec() })
    }

    /// Send it over a connection of few frames, where nothing else is sent meanwhile.
    ///
    /// # Errors
    /// If it cannot be sent in the time that `stream` has for writing.
    pub(crate) fn send(kind: FrameKind, record: &[u8], mut stream: &TcpStream) -> io::Result<()> {
        let header = FrameHeader { kind, len: record.len(), number: 0 };
        stream.write_all(&[&header.write(), record].concat())
    }

    /// Wait for one of at most `limit`.
    ///
    /// # Errors
    /// If none has come by then, or what has come is none.
    pub(crate) fn receive(stream: &TcpStream, limit: Duration) -> io::Result<Self> {
        let until = Instant::now() + limit;
        let mut header = [0; HEADER];
        read_all(stream, &mut header, until)?;
        let FrameHeader { kind, len, .. } = FrameHeader::read(header).map_err(io::Error::other)?;
        let mut record = vec![0; len];
        read_all(stream, &mut record, until)?;
        Ok(Self { kind, record })
    }
}

/// Fill `bytes`, by `until` at the latest, however slowly they come.
fn read_all(mut stream: &TcpStream, mut bytes: &mut [u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
            Ok(n) => bytes = &mut bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire_and_others_are_refused() {
        for kind in FrameKind::ALL {
            let header = FrameHeader { kind, len: kind.max_len(), number: 7 };
            assert_eq!(FrameHeader::read(header.write()), Ok(header));
        }
        assert!(FrameHeader::read(*b"GET / HTTP/1.1\r\n").unwrap_err().contains("another protocol"));
        let mut long = FrameHeader { kind: FrameKind::Refusal, len: 0, number: 0 }.write();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(FrameHeader::read(long).unwrap_err().contains("4294967295 bytes of Refusal, at most 4096"));
    }
}
