//! Large answers: sent in pieces, and freed off the threads that serve sockets.
//!
//! A connection copies and writes what it is given as one piece, and the thread that drops the last reference frees it: of
//! 256 MiB, either takes tens of milliseconds.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use crate::offload::{LARGE_BYTES, discard};

/// Bytes whose memory the pool gives back, if it is much.
#[derive(Debug, Default)]
pub struct FreedOnPool<T: AsRef<[u8]> + Default + Send + 'static>(pub T);

impl<T: AsRef<[u8]> + Default + Send + 'static> AsRef<[u8]> for FreedOnPool<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl<T: AsRef<[u8]> + Default + Send + 'static> Drop for FreedOnPool<T> {
    fn drop(&mut self) {
        if self.as_ref().len() > LARGE_BYTES {
            discard(std::mem::take(&mut self.0));
        }
    }
}

/// `response` with a body that is sent in pieces of at most [`LARGE_BYTES`].
pub fn in_pieces(response: Response) -> Response {
    let is_small = HttpBody::size_hint(response.body()).exact().is_some_and(|bytes| bytes <= LARGE_BYTES as u64);
    if is_small { response } else { response.map(|body| Body::new(InPieces { body, rest: Bytes::new() })) }
}

struct InPieces {
    body: Body,
    /// What is left of a frame of `body`.
    rest: Bytes,
}

impl HttpBody for InPieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.len() > LARGE_BYTES => self.rest = Bytes::from_owner(FreedOnPool(bytes)),
                    Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let most = self.rest.len().min(LARGE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(most)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (HttpBody::size_hint(&self.body), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::response::IntoResponse;
    use futures_util::StreamExt;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_large_body_arrives_whole_and_in_pieces_and_tells_its_length() {
        let whole: Vec<u8> = (0..LARGE_BYTES * 3 + 5).map(|i| (i / 1000) as u8).collect();
        let mut body = in_pieces(whole.clone().into_response()).into_body();
        let (mut got, mut lengths) = (Vec::new(), Vec::new());
        loop {
            assert_eq!(HttpBody::size_hint(&body).exact(), Some((whole.len() - got.len()) as u64));
            assert_eq!(body.is_end_stream(), got.len() == whole.len());
            let Some(frame) = body.frame().await else { break };
            let piece = frame.unwrap().into_data().unwrap();
            lengths.push(piece.len());
            got.extend_from_slice(&piece);
        }
        assert_eq!(lengths, [LARGE_BYTES, LARGE_BYTES, LARGE_BYTES, 5]);
        assert!(got == whole);
    }

    #[tokio::test]
    async fn frames_of_a_stream_are_cut_where_they_are_large() {
        let frames = [1, LARGE_BYTES + 1, 2].map(|length| Ok::<_, Infallible>(Bytes::from(vec![7; length])));
        let response = Body::from_stream(futures_util::stream::iter(frames)).into_response();
        let pieces = in_pieces(response).into_body().into_data_stream();
        let lengths: Vec<_> = pieces.map(|piece| piece.unwrap().len()).collect().await;
        assert_eq!(lengths, [1, LARGE_BYTES, 1, 2]);
    }
}
