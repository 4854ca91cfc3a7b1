//! What comes over a port on which nodes of a network meet.

use quern_ranks::{Frame, FrameKind, Hello, StepBounds, Welcome, step};

const BOUNDS: StepBounds = StepBounds { max_tokens: 64, vocab_size: 1000, page_size: 16, num_pages: 32 };

/// A frame is read as far as it goes, and its record is what its kind says or is refused. A step that is taken is one that a
/// network within the bounds computes, and goes over the wire as it came.
pub(super) fn node_frames(bytes: &[u8]) {
    let Ok(Frame { kind, record }) = Frame::parse(bytes) else { return };
    assert!(record.len() <= kind.max_len() && record.len() < bytes.len());
    match kind {
        FrameKind::Hello => drop(Hello::read(&record)),
        FrameKind::Welcome => drop(Welcome::read(&record)),
        FrameKind::Step => {
            let Ok(batch) = step::read(&record, &BOUNDS) else { return };
            assert_eq!(step::write(&batch), record);
            assert!(batch.token_ids.len() <= BOUNDS.max_tokens && batch.paged.num_rows() == batch.token_ids.len());
            for span in &batch.paged.spans {
                let pages = batch.paged.pages_of(span);
                assert!(pages.len() * BOUNDS.page_size >= span.kv_len);
                assert!(pages.iter().all(|page| (*page as usize) < BOUNDS.num_pages));
            }
            assert!(batch.logit_rows.iter().all(|row| *row < batch.token_ids.len()));
        }
        _ => {}
    }
}
