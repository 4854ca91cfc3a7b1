//! [`exchange`]: bytes to and from several connections at once, so that no two nodes wait for each other to read.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::frame::{FrameHeader, HEADER};

/// What goes over one connection, which does not block.
pub(crate) struct Transfer<'a> {
    pub(crate) stream: &'a TcpStream,
    /// What is still to be sent.
    pub(crate) out: &'a [u8],
    /// Where what comes is put.
    pub(crate) into: &'a mut [u8],
    /// How much has come.
    pub(crate) received: usize,
    /// What must come first.
    pub(crate) expected: Option<FrameHeader>,
}

impl Transfer<'_> {
    fn is_done(&self) -> bool {
        self.out.is_empty() && self.received == self.into.len()
    }

    /// Send and receive what can be without waiting; says whether that was anything.
    fn advance(&mut self) -> io::Result<bool> {
        let before = (self.out.len(), self.received);
        while !self.out.is_empty() {
            match self.stream.write(self.out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.out = &self.out[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while self.received < self.into.len() {
            match self.stream.read(&mut self.into[self.received..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.received += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.received >= HEADER
                && let Some(expected) = self.expected.take()
            {
                let (header, _) = self.into.split_first_chunk().expect("a header has come");
                match FrameHeader::read(*header) {
                    Ok(header) if header == expected => {}
                    Ok(header) => return Err(io::Error::other(format!("{header:?} came where {expected:?} belongs"))),
                    Err(cause) => return Err(io::Error::other(cause)),
                }
            }
        }
        Ok(before != (self.out.len(), self.received))
    }
}

/// Carry out all of `transfers`, with at most `limit` in which nothing moves.
///
/// # Errors
/// The place of the transfer that failed, and why.
pub(crate) fn exchange(transfers: &mut [Transfer<'_>], limit: Option<Duration>) -> Result<(), (usize, io::Error)> {
    let mut until = limit.map(|limit| Instant::now() + limit);
    loop {
        let mut moved = false;
        for (at, transfer) in transfers.iter_mut().enumerate() {
            moved |= transfer.advance().map_err(|error| (at, error))?;
        }
        let Some(waits) = transfers.iter().position(|transfer| !transfer.is_done()) else { return Ok(()) };
        if moved {
            until = limit.map(|limit| Instant::now() + limit);
            continue;
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err((waits, io::ErrorKind::TimedOut.into()));
        }
        let mut waited: Vec<PollFd<'_>> = transfers.iter().filter(|transfer| !transfer.is_done()).map(wanted).collect();
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut waited, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err((waits, error.into())),
        }
    }
}

/// What a transfer waits for.
fn wanted<'a>(transfer: &'a Transfer<'_>) -> PollFd<'a> {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::OUT, !transfer.out.is_empty());
    flags.set(PollFlags::IN, transfer.received < transfer.into.len());
    PollFd::new(transfer.stream, flags)
}
