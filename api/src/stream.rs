//! Server-sent events: an answer that a future writes frame by frame.
//!
//! The future lives inside the response's body and runs only when the connection asks for more, so there
//! is no task to look after: when the client goes, the body is dropped, the future with it, and whatever
//! it held (the request's handle above all) ends at once.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    offload::{self, LARGE_BYTES, Offloadable},
    pieces::FreedOnPool,
};

/// Sendings that wait for the connection to take them; the future pauses when there are more.
const FRAMES_AHEAD: usize = 16;

/// The same in bytes. A single one may have more; it waits until the others have been taken.
const BYTES_AHEAD: usize = 256 << 10;

/// The `Content-Type` of server-sent events.
pub const EVENTS: &str = "text/event-stream; charset=utf-8";

/// That of an answer of JSON lines.
pub const JSON_LINES: &str = "application/x-ndjson";

/// Frames that are written one after the other, and sent together.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    is_kept: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { bytes: Vec::new(), is_kept: true }
    }
}

impl Frames {
    /// Keep nothing of what is written: the frames of an answer in one piece.
    pub fn discarded() -> Self {
        Self { bytes: Vec::new(), is_kept: false }
    }

    /// `data: JSON`.
    pub fn data(&mut self, value: &impl Serialize) {
        self.write(b"data: ", value, b"\n\n");
    }

    /// `data: JSON`, written already.
    pub fn json(&mut self, json: &[u8]) {
        if self.is_kept {
            [b"data: ", json, b"\n\n"].into_iter().for_each(|part| self.bytes.extend_from_slice(part));
        }
    }

    /// `event: NAME` and `data: JSON`.
    pub fn event(&mut self, name: &str, value: &impl Serialize) {
        self.write(format!("event: {name}\ndata: ").as_bytes(), value, b"\n\n");
    }

    /// A line of JSON, where the whole answer is lines ([`JSON_LINES`]).
    pub fn line(&mut self, value: &impl Serialize) {
        self.write(b"", value, b"\n");
    }

    /// `data: [DONE]`, the last frame of OpenAI's streams and of `/generate`'s.
    pub fn done(&mut self) {
        self.json(b"[DONE]");
    }

    /// A line that clients skip; it keeps the connection's middlemen awake.
    pub fn comment(&mut self) {
        if self.is_kept {
            self.bytes.extend_from_slice(b": keep-alive\n\n");
        }
    }

    fn write(&mut self, before: &[u8], value: &impl Serialize, after: &[u8]) {
        if self.is_kept {
            self.bytes.extend_from_slice(before);
            serde_json::to_writer(&mut self.bytes, value).expect("wire types are plain data");
            self.bytes.extend_from_slice(after);
        }
    }
}

/// Where frames go.
#[derive(Clone, Debug)]
pub struct FrameSender {
    frames: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    /// Bytes that may wait yet.
    room: Arc<Semaphore>,
}

impl FrameSender {
    /// Send what has been written, once there is room for it.
    pub async fn send(&self, frames: &mut Frames) {
        if frames.bytes.is_empty() {
            return;
        }
        let piece = std::mem::take(&mut frames.bytes);
        let bytes = piece.len().min(BYTES_AHEAD) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.expect("the semaphore is never closed");
        // The receiver lives in the same body as the future that calls this.
        let _ = self.frames.send((Bytes::from_owner(FreedOnPool(piece)), room)).await;
    }
}

/// A response of this content type whose frames `write` sends. The future may be offloaded; it is taken to hold large
/// values if the one that calls this does.
pub fn response<F>(content_type: &'static str, write: impl FnOnce(FrameSender) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, frames) = mpsc::channel(FRAMES_AHEAD);
    let sender = FrameSender { frames: sender, room: Arc::new(Semaphore::new(BYTES_AHEAD)) };
    let writer = Offloadable::of_weight(offload::is_heavy(), write(sender));
    let body = Written { writer: Some(writer), frames, next: None };
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise gather the stream before passing it on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Written {
    writer: Option<Offloadable<()>>,
    frames: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    /// Taken off `frames` already.
    next: Option<(Bytes, OwnedSemaphorePermit)>,
}

impl Stream for Written {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(writer) = &mut self.writer
            && Pin::new(writer).poll(context).is_ready()
        {
            // Drops the future's sender, so the channel ends behind its last frame.
            self.writer = None;
        }
        // What is there leaves as one piece: one write to the socket instead of one a frame. A large frame leaves alone;
        // joining it would copy it.
        let mut frames = Vec::new();
        loop {
            let next = match self.next.take() {
                None => self.frames.poll_recv(context),
                next => Poll::Ready(next),
            };
            match next {
                Poll::Ready(Some(next)) if next.0.len() > LARGE_BYTES && !frames.is_empty() => {
                    self.next = Some(next);
                    break;
                }
                Poll::Ready(Some((frame, _room))) => {
                    let is_large = frame.len() > LARGE_BYTES;
                    frames.push(frame);
                    if is_large {
                        break;
                    }
                }
                Poll::Ready(None) if frames.is_empty() => return Poll::Ready(None),
                Poll::Pending if frames.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        let piece = if frames.len() == 1 { frames.swap_remove(0) } else { frames.concat().into() };
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn every_frame_arrives_in_order_however_many_there_are() {
        let response = response(EVENTS, |sender| async move {
            let mut frames = Frames::default();
            for i in 0..100 {
                frames.data(&i);
                sender.send(&mut frames).await;
                if i % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            frames.done();
            sender.send(&mut frames).await;
        });
        let text = String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().into()).unwrap();
        let expected: String = (0..100).map(|i| format!("data: {i}\n\n")).collect();
        assert_eq!(text, expected + "data: [DONE]\n\n");
    }

    #[tokio::test]
    async fn dropping_the_response_drops_the_writer() {
        struct Flag(std::sync::Arc<std::sync::atomic::AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let dropped = std::sync::Arc::default();
        let flag = Flag(std::sync::Arc::clone(&dropped));
        let response = response(EVENTS, |sender| async move {
            let mut frames = Frames::default();
            frames.data(&1);
            sender.send(&mut frames).await;
            std::future::pending::<()>().await;
            drop(flag);
        });
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "data: 1\n\n");
        assert!(!dropped.load(std::sync::atomic::Ordering::SeqCst));
        drop(body);
        assert!(dropped.load(std::sync::atomic::Ordering::SeqCst));
    }
}
