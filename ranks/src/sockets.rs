//! Bytes to and from several connections at once, so that no two nodes wait for each other to read.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::frame::{FrameHeader, HEADER};

/// What goes to one other node, and what comes from it.
pub(crate) struct Transfer<'a> {
    pub(crate) node: usize,
    /// The connection to it, which does not block.
    pub(crate) stream: &'a TcpStream,
    /// Whether it is sent what is sent.
    pub(crate) is_told: bool,
    /// Where what comes is put: as many bytes as it has.
    pub(crate) into: &'a mut Vec<u8>,
    /// What must come first.
    pub(crate) expected: Option<FrameHeader>,
}

/// A connection, and how far it is.
struct Connection<'a> {
    stream: &'a TcpStream,
    /// What is still to be sent.
    out: &'a [u8],
    into: &'a mut [u8],
    /// How much has come.
    received: usize,
    /// What must come first, until it has.
    expected: Option<FrameHeader>,
}

impl Connection<'_> {
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
                expected.check(self.into)?;
            }
        }
        Ok(before != (self.out.len(), self.received))
    }

    /// What it waits for.
    fn wanted(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::OUT, !self.out.is_empty());
        flags.set(PollFlags::IN, self.received < self.into.len());
        PollFd::new(self.stream, flags)
    }
}

/// Send `out` and fill what comes, as [`exchange`](crate::exchange::exchange) does.
pub(crate) fn exchange(out: &[u8], transfers: &mut [Transfer<'_>], limit: Duration) -> Result<(), (usize, io::Error)> {
    let all = transfers.iter_mut().map(|transfer| Connection {
        stream: transfer.stream,
        out: if transfer.is_told { out } else { &[] },
        into: transfer.into,
        received: 0,
        expected: transfer.expected,
    });
    carry_out(&mut all.collect::<Vec<_>>(), Some(limit))
}

/// Fill `into` from one connection, however long that takes.
///
/// # Errors
/// If it is closed, or fails.
pub(crate) fn receive(stream: &TcpStream, into: &mut [u8]) -> io::Result<()> {
    let one = Connection { stream, out: &[], into, received: 0, expected: None };
    carry_out(&mut [one], None).map_err(|(_, error)| error)
}

/// All of it, with at most `limit` in which nothing moves.
fn carry_out(all: &mut [Connection<'_>], limit: Option<Duration>) -> Result<(), (usize, io::Error)> {
    let mut until = limit.map(|limit| Instant::now() + limit);
    loop {
        let mut moved = false;
        for (at, one) in all.iter_mut().enumerate() {
            moved |= one.advance().map_err(|error| (at, error))?;
        }
        let Some(waits) = all.iter().position(|one| !one.is_done()) else { return Ok(()) };
        if moved {
            until = limit.map(|limit| Instant::now() + limit);
            continue;
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err((waits, io::ErrorKind::TimedOut.into()));
        }
        let mut waited: Vec<PollFd<'_>> = all.iter().filter(|one| !one.is_done()).map(Connection::wanted).collect();
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut waited, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err((waits, error.into())),
        }
    }
}
