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

/// Frames that wait for the connection to take them; the future pauses when there are more.
const FRAMES_AHEAD: usize = 16;

/// The same in bytes. A single frame may have more; it waits until the others have been taken.
const BYTES_AHEAD: usize = 256 << 10;

/// Where the frames of a stream go.
#[derive(Clone, Debug)]
pub struct Frames {
    frames: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    /// Bytes that may wait yet.
    room: Arc<Semaphore>,
}

impl Frames {
    /// `data: JSON`.
    pub async fn data(&self, value: &impl Serialize) {
        let mut frame = b"data: ".to_vec();
        serde_json::to_writer(&mut frame, value).expect("wire types are plain data");
        frame.extend_from_slice(b"\n\n");
        self.send(frame.into()).await;
    }

    /// `data: JSON`, written already.
    pub async fn json(&self, json: &[u8]) {
        self.send([b"data: ", json, b"\n\n"].concat().into()).await;
    }

    /// `event: NAME` and `data: JSON`.
    pub async fn event(&self, name: &str, value: &impl Serialize) {
        let mut frame = format!("event: {name}\ndata: ").into_bytes();
        serde_json::to_writer(&mut frame, value).expect("wire types are plain data");
        frame.extend_from_slice(b"\n\n");
        self.send(frame.into()).await;
    }

    /// A line of JSON, where the whole answer is lines ([`lines`]).
    pub async fn line(&self, value: &impl Serialize) {
        let mut line = serde_json::to_vec(value).expect("wire types are plain data");
        line.push(b'\n');
        self.send(line.into()).await;
    }

    /// `data: [DONE]`, the last frame of OpenAI's streams and of `/generate`'s.
    pub async fn done(&self) {
        self.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
    }

    /// A line that clients skip; it keeps the connection's middlemen awake.
    pub async fn comment(&self) {
        self.send(Bytes::from_static(b": keep-alive\n\n")).await;
    }

    async fn send(&self, frame: Bytes) {
        let bytes = frame.len().min(BYTES_AHEAD) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.expect("the semaphore is never closed");
        // The receiver lives in the same body as the future that calls this.
        let _ = self.frames.send((frame, room)).await;
    }
}

/// A `text/event-stream` response whose frames `write` sends.
pub fn response<F>(write: impl FnOnce(Frames) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    streamed("text/event-stream; charset=utf-8", write)
}

/// An answer of JSON lines that `write` sends.
pub fn lines<F>(write: impl FnOnce(Frames) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    streamed("application/x-ndjson", write)
}

fn streamed<F>(content_type: &'static str, write: impl FnOnce(Frames) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, frames) = mpsc::channel(FRAMES_AHEAD);
    let sender = Frames { frames: sender, room: Arc::new(Semaphore::new(BYTES_AHEAD)) };
    let body = Written { writer: Some(Box::pin(write(sender))), frames };
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise gather the stream before passing it on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Written {
    writer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    frames: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
}

impl Stream for Written {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(writer) = &mut self.writer
            && writer.as_mut().poll(context).is_ready()
        {
            // Drops the future's sender, so the channel ends behind its last frame.
            self.writer = None;
        }
        // What is there leaves as one piece: one write to the socket instead of one a frame.
        let mut frames = Vec::new();
        loop {
            match self.frames.poll_recv(context) {
                Poll::Ready(Some((frame, _room))) => frames.push(frame),
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
        let response = response(|frames| async move {
            for i in 0..100 {
                frames.data(&i).await;
                if i % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            frames.done().await;
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
        let response = response(|frames| async move {
            frames.data(&1).await;
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
