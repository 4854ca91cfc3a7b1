//! What servers answer to `quern bench`.

use quern_bench::{
    backend::{Chunk, Protocol},
    sse::{self, LineReader},
};

fn lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut reader = LineReader::default();
    let mut lines = Vec::new();
    for piece in pieces {
        reader.push(piece);
        while let Some(line) = reader.next_line() {
            lines.push(line.to_vec());
        }
    }
    (lines, reader.rest().to_vec())
}

/// A stream cut anywhere has the lines of the whole stream, and each of them is a chunk or an error in every interface.
/// The first byte says how long the pieces are.
pub(super) fn sse_client(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else { return };
    let whole = lines(std::iter::once(stream));
    assert_eq!(whole, lines(stream.chunks(usize::from(*size % 16) + 1)));
    for line in whole.0.iter().chain([&whole.1]) {
        let Some(payload) = sse::payload(line) else { continue };
        for protocol in [Protocol::Generate, Protocol::Completions, Protocol::Chat, Protocol::Messages] {
            // What is no chunk is an error like another.
            let _ = Chunk::parse(protocol, payload);
        }
    }
}
