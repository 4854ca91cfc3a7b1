//! [`Wire`]: a client's end of a connection, and HTTP/1.1 as a client reads it.

use std::{io, rc::Rc};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::world::World;

/// An answer.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether all of it has come.
    pub(crate) is_whole: bool,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// How a client reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    Eager,
    /// So many bytes at once, with a pause after them.
    Slow {
        bytes: usize,
        pause_ms: u64,
    },
    /// Away after so many bytes.
    LeaveAfter(usize),
    /// Nothing for so long, and then everything.
    Late {
        ms: u64,
    },
}

pub(crate) struct Wire {
    stream: DuplexStream,
    read: Vec<u8>,
    /// Bytes taken of all answers.
    taken: usize,
    /// Whether an answer has been read from it.
    pub(crate) is_reused: bool,
}

impl Wire {
    pub(crate) fn new(stream: DuplexStream) -> Self {
        Self { stream, read: Vec::new(), taken: 0, is_reused: false }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// No more will be sent.
    pub(crate) async fn close_writing(&mut self) {
        // A server that has gone is told nothing.
        let _ = self.stream.shutdown().await;
    }

    /// More bytes; `false` at the end, or when the client leaves.
    async fn more(&mut self, world: &Rc<World>, pace: Pace) -> bool {
        let begin = self.read.len();
        let count = match pace {
            Pace::Eager => self.stream.read_buf(&mut self.read).await,
            Pace::Late { ms } => {
                if self.taken == 0 {
                    world.pause(ms).await;
                }
                self.stream.read_buf(&mut self.read).await
            }
            Pace::Slow { bytes, pause_ms } => {
                world.pause(pause_ms).await;
                let mut piece = vec![0; bytes];
                let count = self.stream.read(&mut piece).await;
                self.read.extend_from_slice(&piece[..*count.as_ref().unwrap_or(&0)]);
                count
            }
            Pace::LeaveAfter(bytes) if self.taken >= bytes => return false,
            Pace::LeaveAfter(bytes) => {
                let mut piece = vec![0; bytes - self.taken];
                let count = self.stream.read(&mut piece).await;
                self.read.extend_from_slice(&piece[..*count.as_ref().unwrap_or(&0)]);
                count
            }
        };
        self.taken += self.read.len() - begin;
        matches!(count, Ok(count) if count > 0)
    }

    /// The next answer, as far as it comes; `None` if nothing of it does.
    ///
    /// # Panics
    /// If what comes is no HTTP/1.1.
    pub(crate) async fn receive(&mut self, world: &Rc<World>, pace: Pace) -> Option<Response> {
        self.taken = 0;
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|end| end == b"\r\n\r\n") {
                if self.read.starts_with(b"HTTP/1.1 100 ") {
                    self.read.drain(..at + 4);
                    continue;
                }
                break at + 4;
            }
            if !self.more(world, pace).await {
                return None;
            }
        };
        let head: Vec<u8> = self.read.drain(..head_end).collect();
        let head = String::from_utf8(head).expect("a head in ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let status = status[..3].parse().expect("a status");
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let mut response = Response { status, headers: lines.map(header).collect(), ..Response::default() };
        let length = response.header("content-length").map(|length| length.parse::<usize>().expect("a length"));
        let is_chunked = response.header("transfer-encoding").is_some_and(|coding| coding == "chunked");
        assert!(length.is_none() || !is_chunked, "two lengths: {head}");
        if is_chunked {
            response.is_whole = self.receive_chunks(world, pace, &mut response.body).await;
        } else if let Some(length) = length {
            response.is_whole = self.fill(world, pace, length).await;
            response.body = self.read.drain(..length.min(self.read.len())).collect();
        } else if matches!(status, 204 | 304) {
            response.is_whole = true;
        } else {
            while self.more(world, pace).await {}
            response.body = std::mem::take(&mut self.read);
            response.is_whole = true;
        }
        self.is_reused = true;
        Some(response)
    }

    /// Until so many bytes are there.
    async fn fill(&mut self, world: &Rc<World>, pace: Pace, bytes: usize) -> bool {
        while self.read.len() < bytes {
            if !self.more(world, pace).await {
                return false;
            }
        }
        true
    }

    async fn receive_chunks(&mut self, world: &Rc<World>, pace: Pace, body: &mut Vec<u8>) -> bool {
        loop {
            let line_end = loop {
                if let Some(at) = self.read.windows(2).position(|end| end == b"\r\n") {
                    break at;
                }
                if !self.more(world, pace).await {
                    return false;
                }
            };
            let line: Vec<u8> = self.read.drain(..line_end + 2).collect();
            let size =
                std::str::from_utf8(&line[..line_end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.unwrap_or_else(|| panic!("no size of a chunk: {:?}", line.escape_ascii().to_string()));
            let is_there = self.fill(world, pace, size + 2).await;
            body.extend(self.read.drain(..size.min(self.read.len())));
            if !is_there {
                return false;
            }
            assert_eq!(self.read.drain(..2).collect::<Vec<_>>(), b"\r\n", "the end of a chunk");
            if size == 0 {
                return true;
            }
        }
    }
}
