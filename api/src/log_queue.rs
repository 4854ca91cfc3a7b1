//! [`LogQueue`]: the lines of the log on their way to standard error, whose reader may be slow, paused or gone
//! and whose disk may be full.
//!
//! Threads that log copy a line into a bounded buffer and go on; one thread writes. What cannot be kept or
//! written is dropped and counted, so that a log costs lines and never an answer.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    mem,
    os::fd::AsFd,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::recent_log::RECENT;

/// Bytes that wait to be written at most, and as many may be in the writer's hands: tens of thousands of lines.
const MAX_BYTES: usize = 4 << 20;

/// What a chunk's buffer keeps of its capacity for the next one.
const KEPT_CAPACITY: usize = 64 << 10;

/// Wait before another try where standard error is non-blocking and full.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The log of this process.
pub static LOG: LogQueue = LogQueue::new();

/// Lines that wait for their writer.
#[derive(Debug)]
pub struct LogQueue {
    state: Mutex<State>,
    changed: Condvar,
    /// Lines lost since the start.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct State {
    waiting: Vec<u8>,
    /// Whether the writer has taken lines that it has not done with.
    writing: bool,
    has_writer: bool,
}

impl LogQueue {
    const fn new() -> Self {
        let state = State { waiting: Vec::new(), writing: false, has_writer: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), dropped: AtomicU64::new(0) }
    }

    /// Write to standard error from now on, on a thread of its own.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(&'static self) -> io::Result<()> {
        // A descriptor of our own: the lock of `std::io::stderr` would be held for as long as a write blocks.
        match io::stderr().as_fd().try_clone_to_owned() {
            Ok(stderr) => self.write_to(File::from(stderr)),
            Err(_) => self.write_to(io::stderr()),
        }
    }

    fn write_to(&'static self, out: impl Write + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("log".into()).spawn(move || self.write(out))?;
        self.state().has_writer = true;
        Ok(())
    }

    /// Queue `lines`, the end of the last one included, or drop them where there is no room. Never blocks on the
    /// log's reader while there is a writer; before that, writes at once.
    pub fn push(&self, lines: &[u8]) {
        let mut state = self.state();
        if !state.has_writer {
            if io::stderr().write_all(lines).is_err() {
                self.count_dropped(lines);
            }
        } else if state.waiting.len() + lines.len() > MAX_BYTES {
            self.count_dropped(lines);
        } else {
            state.waiting.extend_from_slice(lines);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Wait until everything is written or lost, at most `timeout`; says whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let pending = |state: &mut State| state.has_writer && (state.writing || !state.waiting.is_empty());
        let result = self.changed.wait_timeout_while(self.state(), timeout, pending);
        !result.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lines lost since the start.
    pub fn num_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The writer's loop.
    fn write(&self, mut out: impl Write) {
        let (mut chunk, mut mid_line, mut reported) = (Vec::new(), false, 0);
        loop {
            let state = self.changed.wait_while(self.state(), |state| state.waiting.is_empty());
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut state.waiting, &mut chunk);
            state.writing = true;
            drop(state);

            if mid_line {
                // A line that was cut by a full disk must not swallow the next one.
                chunk.insert(0, b'\n');
            }
            match write_chunk(&mut out, &chunk) {
                Ok(()) => {
                    mid_line = false;
                    let dropped = self.num_dropped();
                    if dropped > reported {
                        reported = dropped;
                        // A line as any other; if it is lost in turn, the next one says so.
                        tracing::warn!(
                            "{dropped} lines of this log could not be written and are lost (since the start)"
                        );
                    }
                }
                Err(left) => {
                    let written = &chunk[..chunk.len() - left];
                    // The end that was added to a cut line is no line of its own.
                    self.count_dropped(&chunk[written.len().max(usize::from(mid_line))..]);
                    mid_line = written.last().map_or(mid_line, |last| *last != b'\n');
                }
            }
            chunk.clear();
            chunk.shrink_to(KEPT_CAPACITY);
            self.state().writing = false;
            self.changed.notify_all();
        }
    }

    fn count_dropped(&self, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count().max(1);
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Lines are whole whenever the lock is free.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Write all of `chunk`, or say how many bytes are left.
fn write_chunk(out: &mut impl Write, chunk: &[u8]) -> Result<(), usize> {
    let mut rest = chunk;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(rest.len()),
            Ok(written) => rest = &rest[written..],
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_AFTER),
            Err(_) => return Err(rest.len()),
        }
    }
    Ok(())
}

/// Queues what the subscriber writes, a whole line at a time, and keeps it for the live view.
#[derive(Clone, Copy, Debug)]
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        RECENT.push(String::from_utf8_lossy(line).trim_end());
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A disk that has room for so many bytes.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn free(&self, bytes: usize) {
            self.0.lock().unwrap().1 += bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, room) = &mut *self.0.lock().unwrap();
            let count = bytes.len().min(*room);
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            *room -= count;
            written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(out: impl Write + Send + 'static) -> &'static LogQueue {
        let queue: &'static LogQueue = Box::leak(Box::new(LogQueue::new()));
        queue.write_to(out).unwrap();
        queue
    }

    #[test]
    fn a_disk_that_is_full_at_any_byte_costs_lines_and_counts_them() {
        for room in 0..=12 {
            let disk = Disk::default();
            disk.free(room);
            let queue = queue(disk.clone());
            for line in ["one\n", "two\n", "three\n"] {
                queue.push(line.as_bytes());
                assert!(queue.flush(LONG));
            }
            let lost = queue.num_dropped();
            assert_eq!(disk.text().matches('\n').count() as u64 + lost, 3, "{room}: {:?}", disk.text());
            disk.free(1000);
            queue.push(b"four\n");
            assert!(queue.flush(LONG));
            assert!(disk.text().ends_with("\nfour\n") || disk.text() == "four\n", "{room}: {:?}", disk.text());
            assert_eq!(queue.num_dropped(), lost);
        }
    }

    #[test]
    fn a_reader_that_pauses_holds_no_writer_up() {
        struct Paused(mpsc::Receiver<()>);
        impl Write for Paused {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (resume, paused) = mpsc::channel();
        let queue = queue(Paused(paused));
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let count = 3 * MAX_BYTES / line.len();
        (0..count).for_each(|_| queue.push(&line));
        // One buffer waits and one may be in the writer's hands.
        assert!(queue.num_dropped() as usize >= count / 3, "{}", queue.num_dropped());
        assert!(!queue.flush(Duration::from_millis(1)));
        drop(resume);
        assert!(queue.flush(LONG));
    }
}
