//! [`LineReader`]: lines out of a body that arrives in pieces cut anywhere.

/// No line of a stream is longer; a server that sends more without a line's end is broken.
const LONGEST_LINE: usize = 256 << 20;

/// Lines out of a body that arrives in pieces cut anywhere, even inside a character.
#[derive(Default)]
pub struct LineReader {
    bytes: Vec<u8>,
    /// `bytes[..taken]` has been handed out.
    taken: usize,
    /// `bytes[taken..searched]` holds no line's end.
    searched: usize,
}

impl LineReader {
    /// Take the next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
        }
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole line without its end (`\n` or `\r\n`), if one has arrived.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let Some(offset) = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let start = self.taken;
        let end = self.searched + offset;
        self.taken = end + 1;
        self.searched = self.taken;
        let line = &self.bytes[start..end];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// What is left when the body has ended: a last line without an end.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Whether a line without an end has grown past every bound.
    pub fn is_overlong(&self) -> bool {
        self.bytes.len() - self.taken > LONGEST_LINE
    }
}

/// The payload of a line of a stream: what follows `data:`, or a whole line of JSON from a server that was
/// asked not to stream. Comments, event names and empty lines have none.
pub fn payload(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii();
    match line.strip_prefix(b"data:") {
        Some(rest) => Some(rest.trim_ascii_start()),
        None if line.starts_with(b"{") || line.starts_with(b"[") => Some(line),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = LineReader::default();
        let mut lines = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(line) = reader.next_line() {
                lines.push(String::from_utf8(line.to_vec()).expect("whole lines are whole characters"));
            }
        }
        if !reader.rest().is_empty() {
            lines.push(String::from_utf8(reader.rest().to_vec()).expect("the rest too"));
        }
        lines
    }

    const BODY: &str = "data: {\"a\":\"é\"}\n\n: keep-alive\r\nevent: x\r\ndata:{\"b\":\"水\"}\r\n\r\ndata: [DONE]";

    #[test]
    fn every_cut_gives_the_same_lines() {
        let whole = lines(&[BODY.as_bytes()]);
        assert_eq!(whole.len(), 7);
        for first in 0..=BODY.len() {
            for second in first..=BODY.len() {
                let bytes = BODY.as_bytes();
                assert_eq!(lines(&[&bytes[..first], &bytes[first..second], &bytes[second..]]), whole);
            }
        }
        let single: Vec<&[u8]> = BODY.as_bytes().chunks(1).collect();
        assert_eq!(lines(&single), whole);
    }

    #[test]
    fn only_data_has_a_payload() {
        let whole = lines(&[BODY.as_bytes()]);
        let payloads: Vec<&str> = whole
            .iter()
            .filter_map(|line| payload(line.as_bytes()))
            .map(|bytes| std::str::from_utf8(bytes).expect("text"))
            .collect();
        assert_eq!(payloads, ["{\"a\":\"é\"}", "{\"b\":\"水\"}", "[DONE]"]);
        assert_eq!(payload(b"  {\"text\":1} "), Some(b"{\"text\":1}".as_slice()));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_cut_at_line_ends_only(bytes: Vec<u8>, size in 1usize..7) {
            let mut reader = LineReader::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                reader.push(piece);
                while let Some(line) = reader.next_line() {
                    found.push(line.to_vec());
                }
            }
            found.push(reader.rest().to_vec());
            let mut wanted: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
            let last = wanted.pop().expect("split yields at least one part");
            let mut wanted: Vec<&[u8]> =
                wanted.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
            wanted.push(last);
            prop_assert_eq!(found, wanted);
        }
    }
}
