//! A step on its way to another node: [`write()`] it, and [`read`] it, which believes nothing that could hurt a network.

use std::ops::Range;

use quern_backend::{ForwardBatch, PagedBatch, Span};

use crate::wire::{RecordReader, RecordWriter, WireError};

/// What every step of a network keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBounds {
    /// Most tokens of a step.
    pub max_tokens: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages of keys and values.
    pub num_pages: usize,
}

/// Most rows of logits for each token of a step: a row may be wanted more than once.
const MAX_LOGITS_PER_ROW: usize = 1024;

/// Most entries of all page tables of a step.
const MAX_TABLE: usize = 32 << 20;

/// The record of `batch`.
pub fn write(batch: &ForwardBatch) -> Vec<u8> {
    let ForwardBatch { token_ids, positions, paged: PagedBatch { spans, pages }, logit_rows } = batch;
    let mut record = RecordWriter::default();
    record.count(token_ids.len());
    for (token, position) in token_ids.iter().zip(positions) {
        record.u32(*token).u32(*position);
    }
    record.count(spans.len());
    for Span { q_start, q_len, kv_len, pages } in spans {
        record.count(*q_start).count(*q_len).count(*kv_len).count(pages.start).count(pages.end);
    }
    record.count(pages.len());
    for page in pages {
        record.u32(*page);
    }
    record.count(logit_rows.len());
    for row in logit_rows {
        record.count(*row);
    }
    record.finish()
}

/// The step that `record` is.
///
/// # Errors
/// If it is none, or one that no network within `bounds` computes: a token, a page or a row that there is not.
pub fn read(record: &[u8], bounds: &StepBounds) -> Result<ForwardBatch, WireError> {
    let StepBounds { max_tokens, vocab_size, page_size, num_pages } = *bounds;
    let mut fields = RecordReader::new(record);
    let rows = fields.count("tokens", max_tokens)?;
    let (mut token_ids, mut positions) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for _ in 0..rows {
        let (token, position) = (fields.u32("token")?, fields.u32("position")?);
        if token as usize >= vocab_size {
            return Err(WireError::new("token", format!("{token} of {vocab_size}")));
        }
        token_ids.push(token);
        positions.push(position);
    }
    let count = fields.count("sequences", rows)?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let mut number = |field| fields.u32(field).map(|value| value as usize);
        let (q_start, q_len, kv_len) = (number("first row")?, number("rows")?, number("length")?);
        spans.push(Span { q_start, q_len, kv_len, pages: number("first page")?..number("end of pages")? });
    }
    let pages: Vec<u32> = fields.numbers("pages", MAX_TABLE)?.collect();
    let most = rows * MAX_LOGITS_PER_ROW;
    let logit_rows: Vec<usize> = fields.numbers("logit rows", most)?.map(|row| row as usize).collect();
    fields.end()?;

    if let Some(page) = pages.iter().find(|page| **page as usize >= num_pages) {
        return Err(WireError::new("page", format!("{page} of {num_pages}")));
    }
    let mut next = 0;
    for Span { q_start, q_len, kv_len, pages: Range { start, end } } in &spans {
        let fits = *q_start == next && *q_len > 0 && *q_len <= rows - next && q_len <= kv_len;
        let held = end.checked_sub(*start).filter(|_| *end <= pages.len());
        if !fits || held.is_none_or(|held| held < kv_len.div_ceil(page_size)) {
            let what = format!("{q_len} rows from {q_start} of {rows}, {kv_len} tokens in pages {start} to {end}");
            return Err(WireError::new("sequence", what));
        }
        let first = kv_len - q_len;
        if positions[next..next + q_len].iter().zip(first..).any(|(position, own)| *position as usize != own) {
            return Err(WireError::new("position", format!("those from {first} on belong to rows from {q_start} on")));
        }
        next += q_len;
    }
    if next != rows {
        return Err(WireError::new("sequences", format!("{next} of {rows} rows are theirs")));
    }
    if let Some(row) = logit_rows.iter().find(|row| **row >= rows) {
        return Err(WireError::new("logit row", format!("{row} of {rows}")));
    }
    if !logit_rows.is_sorted() {
        return Err(WireError::new("logit rows", "not in ascending order"));
    }
    Ok(ForwardBatch { token_ids, positions, paged: PagedBatch { spans, pages }, logit_rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: StepBounds = StepBounds { max_tokens: 8, vocab_size: 100, page_size: 4, num_pages: 10 };

    fn batch() -> ForwardBatch {
        let spans = vec![
            Span { q_start: 0, q_len: 3, kv_len: 5, pages: 0..2 },
            Span { q_start: 3, q_len: 1, kv_len: 1, pages: 2..3 },
        ];
        ForwardBatch {
            token_ids: vec![1, 2, 3, 99],
            positions: vec![2, 3, 4, 0],
            paged: PagedBatch { spans, pages: vec![0, 9, 4] },
            logit_rows: vec![2, 2, 3],
        }
    }

    #[test]
    fn steps_survive_the_wire_and_their_parts_are_none() {
        let record = write(&batch());
        assert_eq!(read(&record, &BOUNDS), Ok(batch()));
        assert_eq!(read(&write(&ForwardBatch::default()), &BOUNDS), Ok(ForwardBatch::default()));
        for length in 0..record.len() {
            assert!(read(&record[..length], &BOUNDS).is_err(), "{length}");
        }
        assert!(read(&[record, vec![0]].concat(), &BOUNDS).unwrap_err().to_string().starts_with("end: 1 bytes"));
    }

    #[test]
    fn what_no_network_computes_is_refused_by_name() {
        let refused = |change: fn(&mut ForwardBatch)| {
            let mut batch = batch();
            change(&mut batch);
            read(&write(&batch), &BOUNDS).unwrap_err().to_string()
        };
        assert_eq!(refused(|batch| batch.token_ids[3] = 100), "token: 100 of 100");
        assert_eq!(refused(|batch| batch.paged.pages[1] = 10), "page: 10 of 10");
        assert_eq!(refused(|batch| batch.logit_rows[2] = 4), "logit row: 4 of 4");
        assert!(refused(|batch| batch.logit_rows.swap(0, 2)).starts_with("logit rows: not in"));
        assert!(refused(|batch| batch.positions[3] = 1).starts_with("position: "));
        assert!(refused(|batch| batch.paged.spans[0].kv_len = 9).starts_with("sequence: 3 rows"));
        assert!(refused(|batch| batch.paged.spans[0].pages.end = 4).starts_with("sequence: 3 rows"));
        assert!(refused(|batch| batch.paged.spans[1].q_len = 2).starts_with("sequence: 2 rows"));
        assert!(refused(|batch| batch.paged.spans.truncate(1)).starts_with("sequences: 3 of 4"));
        let long = ForwardBatch { token_ids: vec![1; 9], positions: vec![0; 9], ..ForwardBatch::default() };
        assert_eq!(read(&write(&long), &BOUNDS).unwrap_err().to_string(), "tokens: 9, at most 8");
    }
}
