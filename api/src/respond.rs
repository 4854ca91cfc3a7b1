//! [`respond`]: the one loop that turns outputs in the making into an answer, whole or streamed, and
//! [`Dialect`]: what an API adds to it.

use std::ops::ControlFlow;

use axum::response::Response;
use tokio::time::timeout;

use crate::{
    chat_generation::{ChatGeneration, OutputDelta},
    offload::{to_pool_for, to_pool_if_heavy_or, to_socket_thread},
    outcome::{FinishWords, Outcome},
    protocol::ApiError,
    stream::{self, FrameSender, Frames},
};

/// How an API writes an answer down.
///
/// A whole answer takes the same deltas as a streamed one, so the two cannot differ; its frames are not kept.
pub trait Dialect: Sized + Send + 'static {
    /// What an output's end is called.
    const WORDS: FinishWords;

    /// The `Content-Type` of a stream.
    const CONTENT_TYPE: &'static str = stream::EVENTS;

    /// What a stream says before anything has been generated.
    fn open(&mut self, _generation: &ChatGeneration, _frames: &mut Frames) {}

    /// Something is new. An outcome in it is one that the API has a name for.
    fn delta(&mut self, generation: &ChatGeneration, delta: OutputDelta, frames: &mut Frames);

    /// About how many bytes an answer says of `delta`.
    fn delta_bytes(&self, _generation: &ChatGeneration, delta: &OutputDelta) -> usize {
        delta.bytes()
    }

    /// Nothing is new, and the connection must be kept awake.
    fn idle(&mut self, generation: &ChatGeneration, frames: &mut Frames);

    /// Whether the output is to end here, as if it had reached its length.
    fn is_over(&self) -> bool {
        false
    }

    /// All outputs have ended.
    fn close(&mut self, generation: &ChatGeneration, frames: &mut Frames);

    /// An output has failed, and the stream with it.
    fn fail(&mut self, generation: &ChatGeneration, error: ApiError, frames: &mut Frames);

    /// The answer in one piece, after the last delta.
    fn whole(self, generation: &ChatGeneration) -> Response;
}

/// Answer: as a stream, or with the first error or the whole answer.
///
/// A stream lives inside the response's body and pulls one delta after the other; there is no task. Dropping
/// the body aborts what has not ended.
///
/// # Errors
/// If the first delta is an error; later ones are written into the stream.
pub async fn respond<D: Dialect>(generation: ChatGeneration, dialect: D) -> Result<Response, ApiError> {
    let answer = AnswerStream { generation, dialect };
    match answer.generation.streams() {
        true => Ok(stream::response(D::CONTENT_TYPE, |sender| answer.stream(sender))),
        false => answer.whole().await,
    }
}

struct AnswerStream<D> {
    generation: ChatGeneration,
    dialect: D,
}

impl<D: Dialect> AnswerStream<D> {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut frames = Frames::discarded();
        to_socket_thread().await;
        loop {
            let next = self.generation.next().await;
            if let ControlFlow::Break(end) = self.take(next, &mut frames) {
                to_pool_if_heavy_or(self.generation.answer_bytes()).await;
                return end.map(|()| self.dialect.whole(&self.generation));
            }
        }
    }

    async fn stream(mut self, sender: FrameSender) {
        let mut frames = Frames::default();
        to_pool_if_heavy_or(self.generation.answer_bytes()).await;
        self.dialect.open(&self.generation, &mut frames);
        loop {
            sender.send(&mut frames).await;
            to_socket_thread().await;
            let Ok(next) = timeout(self.generation.state().keep_alive(), self.generation.next()).await else {
                // Some repeat what was asked.
                to_pool_if_heavy_or(0).await;
                self.dialect.idle(&self.generation, &mut frames);
                continue;
            };
            let bytes = next.as_ref().map_or(0, |delta| self.dialect.delta_bytes(&self.generation, delta));
            to_pool_for(bytes).await;
            if let ControlFlow::Break(end) = self.take(next, &mut frames) {
                to_pool_if_heavy_or(self.generation.answer_bytes()).await;
                match end {
                    Ok(()) => self.dialect.close(&self.generation, &mut frames),
                    Err(error) => self.dialect.fail(&self.generation, error, &mut frames),
                }
                return sender.send(&mut frames).await;
            }
        }
    }

    /// Take what is next. Breaks at the end of the answer.
    fn take(&mut self, next: Option<OutputDelta>, frames: &mut Frames) -> ControlFlow<Result<(), ApiError>> {
        let Some(mut delta) = next else {
            let complete = self.generation.has_ended();
            return ControlFlow::Break(if complete {
                Ok(())
            } else {
                Err(ApiError::internal("the answer has no end"))
            });
        };
        let error = delta.outcome.as_ref().and_then(|outcome| outcome.error(&D::WORDS));
        delta.outcome = delta.outcome.filter(|_| error.is_none());
        let (index, goes_on) = (delta.index, delta.outcome.is_none());
        if !delta.is_empty() || error.is_none() {
            self.dialect.delta(&self.generation, delta, frames);
        }
        match error {
            Some(error) => ControlFlow::Break(Err(error)),
            None if goes_on && self.dialect.is_over() => {
                let end = OutputDelta { index, outcome: Some(Outcome::Length), ..OutputDelta::default() };
                self.dialect.delta(&self.generation, end, frames);
                ControlFlow::Break(Ok(()))
            }
            None => ControlFlow::Continue(()),
        }
    }
}
