//! A large file over several connections: ranges are fetched side by side and written one after the other.
//!
//! What is on the disk is always a beginning of the file, so that any program that shares the cache can go on from there;
//! what is read ahead waits in memory, within a bound.

use std::{
    io::SeekFrom,
    ops::Range,
    pin::pin,
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, stream};
use reqwest::{StatusCode, Url};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
    sync::OwnedSemaphorePermit,
};

use super::{
    FileHead, Hub, HubError, MAX_FAILURES, RepoSnapshot,
    error::root_cause,
    transfer::{Interruption, check_start},
};
use crate::progress::ByteProgress;

/// Connections of one file.
const CONNECTIONS: usize = 4;

/// A range in memory, or its beginning if the connection failed too often, and the right to have it there.
pub(super) struct RangeRead {
    bytes: Vec<u8>,
    failed: Option<String>,
    _permit: OwnedSemaphorePermit,
}

impl RangeRead {
    /// All of it; `None` if the connection failed too often.
    pub(super) fn whole(self) -> Option<Vec<u8>> {
        self.failed.is_none().then_some(self.bytes)
    }
}

impl Hub {
    /// Append the rest of a file to `file`, which holds its first `done` bytes, over several connections.
    ///
    /// `false`: the server does not know ranges.
    ///
    /// # Errors
    /// If a range cannot be had. All that was read before it has been written.
    pub(super) async fn append_ranges(
        &self,
        snapshot: &RepoSnapshot<'_>,
        head: &FileHead,
        file: &mut File,
        done: &mut u64,
        progress: &ByteProgress,
    ) -> Result<bool, Interruption> {
        let (start, length) = (*done, self.options.range_bytes);
        file.seek(SeekFrom::Start(start)).await?;
        let begins = (0..).map(|i| start + i * length).take_while(|begin| *begin < head.size);
        // Where the hub's redirects lead to: it need not be asked for each range.
        let place = Mutex::new(None);
        let ranges = begins.map(|begin| {
            let end = head.size.min(begin + length);
            self.range(snapshot, head, begin..end, &place, progress)
        });
        let mut ranges = pin!(stream::iter(ranges).buffered(CONNECTIONS));
        while let Some(range) = ranges.next().await {
            let Some(RangeRead { bytes, failed, _permit }) = range? else { return Ok(false) };
            file.write_all(&bytes).await?;
            file.flush().await?;
            *done += bytes.len() as u64;
            if let Some(cause) = failed {
                let (repo, file) = (snapshot.repo.to_string(), head.name.clone());
                let error = HubError::Broken { repo, file, done_bytes: *done, total_bytes: head.size, cause };
                return Err(Interruption::Fatal(error));
            }
        }
        Ok(true)
    }

    /// The bytes `range` of a file, over as many connections as it takes; none if the server does not know ranges.
    pub(super) async fn range(
        &self,
        snapshot: &RepoSnapshot<'_>,
        head: &FileHead,
        range: Range<u64>,
        place: &Mutex<Option<Url>>,
        progress: &ByteProgress,
    ) -> Result<Option<RangeRead>, Interruption> {
        let permit = Arc::clone(&self.ranges).acquire_owned().await.expect("it is never closed");
        let length = (range.end - range.start) as usize;
        let mut received = ReceivedRange { bytes: Vec::with_capacity(length), progress: Some(progress) };
        let mut failures = 0;
        while received.bytes.len() < length {
            let before = received.bytes.len();
            match self.read_range(snapshot, head, &range, place, &mut received).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(Interruption::Connection(cause)) => {
                    failures = if received.bytes.len() > before { 0 } else { failures + 1 };
                    if failures == MAX_FAILURES {
                        return Ok(Some(RangeRead { bytes: received.keep(), failed: Some(cause), _permit: permit }));
                    }
                    tokio::time::sleep(self.options.retry_delay * 2u32.pow(failures)).await;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(Some(RangeRead { bytes: received.keep(), failed: None, _permit: permit }))
    }

    /// One connection's worth of a range; `false` if the server does not know ranges.
    async fn read_range(
        &self,
        snapshot: &RepoSnapshot<'_>,
        head: &FileHead,
        range: &Range<u64>,
        place: &Mutex<Option<Url>>,
        received: &mut ReceivedRange<'_>,
    ) -> Result<bool, Interruption> {
        let RepoSnapshot { repo, commit, .. } = *snapshot;
        let known = place.lock().expect("no holder panics").clone();
        let from = range.start + received.bytes.len() as u64;
        let url = known.clone().unwrap_or_else(|| self.file_url(repo, commit, &head.name));
        let asked = format!("bytes={from}-{}", range.end - 1);
        let (mut response, found) = self.get_file(url, repo, Some(asked)).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => return Ok(false),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Interruption::Connection(format!("the answer was {status}")));
            }
            // Signed addresses are valid for a while; the hub gives another.
            status if known.is_some() => {
                let mut place = place.lock().expect("no holder panics");
                if *place == known {
                    *place = None;
                }
                return Err(Interruption::Connection(format!("the answer was {status}")));
            }
            _ => {
                self.check(response, repo, commit, Some(&head.name)).await?;
                return Ok(false);
            }
        }
        check_start(&response, from)?;
        *place.lock().expect("no holder panics") = Some(found);
        let length = (range.end - range.start) as usize;
        while received.bytes.len() < length {
            match response.chunk().await {
                Ok(Some(chunk)) => received.add(&chunk[..chunk.len().min(length - received.bytes.len())]),
                Ok(None) => return Err(Interruption::Connection("it ended early".into())),
                Err(cause) => return Err(Interruption::Connection(root_cause(&cause))),
            }
        }
        Ok(true)
    }
}

/// What has arrived of a range. Dropped before it is [kept](Self::keep), it is taken back from the progress.
struct ReceivedRange<'p> {
    bytes: Vec<u8>,
    progress: Option<&'p ByteProgress>,
}

impl ReceivedRange<'_> {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        if let Some(progress) = self.progress {
            progress.advance(chunk.len() as u64);
        }
    }

    fn keep(mut self) -> Vec<u8> {
        self.progress = None;
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for ReceivedRange<'_> {
    fn drop(&mut self) {
        if let Some(progress) = self.progress {
            progress.retreat(self.bytes.len() as u64);
        }
    }
}
