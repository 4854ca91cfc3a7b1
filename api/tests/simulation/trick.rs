//! [`Trick`]: what a client does that no client should, and [`Sending`]: what comes of it on the wire.

use serde_json::{Value, json};

use crate::{client::Client, wire::Pace};

/// What a client sends, and how it behaves meanwhile.
pub(crate) struct Sending {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Bytes, and the pause before them in milliseconds.
    pub(crate) pieces: Vec<(Vec<u8>, u64)>,
    pub(crate) pace: Pace,
    /// Statuses that are answers to what is wrong with it; none: it is right.
    pub(crate) refusals: &'static [u16],
    /// Whether the connection may end without an answer, or in the middle of one.
    pub(crate) may_be_cut: bool,
    pub(crate) leaves: bool,
    pub(crate) closes_writing: bool,
    pub(crate) wants_new_wire: bool,
    pub(crate) keeps_wire: bool,
    /// Whether the client may leave the server's words unread for long while it still sends.
    pub(crate) pace_is_late: bool,
    /// Whether the engine has to apply commands for the answer to come, and no time may pass.
    pub(crate) applies_commands: bool,
}

impl Sending {
    fn new(method: &str, path: &str, key: Option<String>, body: Vec<u8>) -> Self {
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{key}");
        let mut this = Self {
            head,
            body,
            pieces: Vec::new(),
            pace: Pace::Eager,
            refusals: &[],
            may_be_cut: false,
            leaves: false,
            closes_writing: false,
            wants_new_wire: false,
            keeps_wire: true,
            pace_is_late: false,
            applies_commands: false,
        };
        this.write(this.body.len());
        this
    }

    pub(crate) fn plain(path: &str, key: Option<String>, body: Vec<u8>) -> Self {
        Self::new("POST", path, key, body)
    }

    pub(crate) fn get(path: &str, key: Option<String>) -> Self {
        Self::new("GET", path, key, Vec::new())
    }

    /// In one piece, with this length announced.
    fn write(&mut self, length: usize) {
        let head = format!("{}content-length: {length}\r\n\r\n", self.head);
        self.pieces = vec![([head.as_bytes(), &self.body].concat(), 0)];
    }

    fn bytes(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|(piece, _)| piece.iter().copied()).collect()
    }

    fn head_len(&self) -> usize {
        self.bytes().len() - self.body.len()
    }

    /// In other bytes, which are refused.
    fn refused(&mut self, body: Vec<u8>, refusals: &'static [u16]) {
        self.body = body;
        self.refusals = refusals;
        self.write(self.body.len());
    }

    /// Before its body is read. A client that reads no answer while it writes may not hear of it.
    fn refused_early(&mut self, refusals: &'static [u16]) {
        self.refused(self.body.clone(), refusals);
        self.may_be_cut = true;
    }

    /// Up to here, and then away.
    fn leave_at(&mut self, at: usize) {
        let bytes = self.bytes();
        self.pieces = vec![(bytes[..at].to_vec(), 0)];
        self.leaves = true;
        self.lost();
    }

    /// It is nobody's fault if nothing comes back.
    fn lost(&mut self) {
        self.may_be_cut = true;
        self.keeps_wire = false;
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("asks are JSON")
    }
}

macro_rules! tricks {
    ($($name:ident $words:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Trick { $($name),* }

        impl Trick {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $words),* }
            }
        }
    };
}

tricks! {
    LeaveInHead "leaves in the head",
    LeaveInBody "leaves in the body",
    LeaveAtOnce "leaves before the answer",
    LeaveInAnswer "leaves at a byte of the answer",
    HalfClose "closes its half",
    SlowReader "reads slowly",
    LateReader "reads late",
    DeadReader "reads nothing",
    SlowHead "sends its head slowly",
    SlowBody "sends its body slowly",
    NoBody "sends no body",
    Pieces "sends in small pieces",
    ByteChunks "sends chunks of a byte",
    BadChunk "sends a broken chunk",
    BadJson "sends broken JSON",
    BadUtf8 "sends broken UTF-8",
    Deep "sends deep JSON",
    Large "sends too large a body",
    Announced "announces too large a body",
    WrongType "sends a wrong type",
    OutOfRange "sends a value out of range",
    TooLong "sends too long a prompt",
    BadGrammar "sends a broken grammar",
    NoPath "asks for an unknown path",
    NoMethod "uses a wrong method",
    WrongKey "has a wrong key",
    Garbage "sends garbage",
    TwoLengths "sends two lengths",
    Expect "expects to be told to go on",
}

impl Trick {
    /// Change what is sent, and what may come back.
    pub(crate) fn apply(self, sending: &mut Sending, client: &mut Client) {
        let has_keys = client.world.swarm.num_keys > 0;
        let limits = (client.world.swarm.api.request_read_timeout, client.world.swarm.api.slow_client_timeout);
        let rng = &mut client.rng;
        let (all, head) = (sending.bytes().len(), sending.head_len());
        match self {
            Self::LeaveInHead => sending.leave_at(rng.below(head)),
            Self::LeaveInBody => sending.leave_at(rng.between(head, all - 1)),
            Self::LeaveAtOnce => sending.leave_at(all),
            Self::LeaveInAnswer => {
                sending.pace = Pace::LeaveAfter(1 + rng.below(1500));
                sending.lost();
            }
            Self::HalfClose => {
                sending.closes_writing = true;
                sending.lost();
            }
            Self::SlowReader => {
                sending.pace = Pace::Slow { bytes: rng.between(1, 200), pause_ms: rng.between(1, 400) as u64 };
                sending.lost();
            }
            Self::LateReader => {
                sending.pace = Pace::Late { ms: rng.between(100, (limits.1 * 900.0) as usize) as u64 };
                sending.pace_is_late = true;
                sending.lost();
            }
            Self::DeadReader => {
                sending.pace = Pace::Late { ms: (limits.1 * 1000.0) as u64 * 3 };
                sending.pace_is_late = true;
                sending.lost();
            }
            Self::SlowHead => {
                let pause = (limits.0 * 1000.0) as u64 / 3;
                let bytes = sending.bytes();
                sending.pieces = bytes[..head].chunks(head.div_ceil(6)).map(|piece| (piece.to_vec(), pause)).collect();
                sending.refusals = &[408];
                sending.wants_new_wire = true;
                sending.lost();
            }
            Self::SlowBody => {
                let pause = (limits.0 * 1000.0) as u64 / 3;
                let bytes = sending.bytes();
                sending.pieces = vec![(bytes[..head].to_vec(), 0)];
                sending
                    .pieces
                    .extend(bytes[head..].chunks((all - head).div_ceil(6)).map(|piece| (piece.to_vec(), pause)));
                sending.refusals = &[408];
                sending.lost();
            }
            Self::NoBody => {
                sending.write(all);
                sending.pieces[0].0.truncate(head);
                sending.refusals = &[408];
                sending.lost();
            }
            Self::Pieces => {
                let bytes = sending.bytes();
                let size = bytes.len().div_ceil(rng.between(2, 12));
                sending.pieces = bytes.chunks(size).map(|piece| (piece.to_vec(), rng.between(1, 50) as u64)).collect();
            }
            Self::ByteChunks => {
                let chunks: Vec<u8> =
                    sending.body.iter().flat_map(|byte| [b'1', b'\r', b'\n', *byte, b'\r', b'\n']).collect();
                let head = format!("{}transfer-encoding: chunked\r\n\r\n", sending.head);
                sending.pieces = vec![(head.into_bytes(), 0), (chunks, 1), (b"0\r\n\r\n".to_vec(), 1)];
            }
            Self::BadChunk => {
                let head = format!("{}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n", sending.head);
                sending.pieces = vec![(head.into_bytes(), 0)];
                sending.refusals = &[400];
                sending.lost();
            }
            Self::BadJson => {
                let mut body = sending.body.clone();
                body.truncate(rng.below(body.len() - 1));
                sending.refused(body, &[400, 422]);
            }
            Self::BadUtf8 => {
                let mut body = sending.body.clone();
                let at = body.len() / 2;
                body.splice(at..at, *b"\xf0\x28\x8c\x28");
                sending.refused(body, &[400, 422]);
            }
            Self::Deep => sending.refused(["{\"model\":".repeat(400), "}".repeat(400)].concat().into(), &[400, 422]),
            Self::Large => {
                sending.refused(vec![b' '; 33 << 10], &[413]);
                sending.lost();
            }
            Self::Announced => {
                sending.write(usize::MAX / 2);
                sending.refusals = &[413];
                sending.lost();
            }
            Self::WrongType => {
                let mut body = sending.json();
                for field in ["messages", "prompt", "text", "input"] {
                    if !body[field].is_null() {
                        body[field] = json!({"no": ["such", 1]});
                    }
                }
                sending.refused(body.to_string().into(), &[400, 422]);
            }
            Self::OutOfRange => {
                let mut body = sending.json();
                for place in ["sampling_params", "options"] {
                    if !body[place].is_null() {
                        body[place]["temperature"] = json!(-1.0);
                    }
                }
                body["temperature"] = json!(-1e30);
                sending.refused(body.to_string().into(), &[400, 422]);
            }
            Self::TooLong => {
                let mut body = sending.json();
                let long = "x".repeat(2000);
                for field in ["prompt", "text", "input"] {
                    if !body[field].is_null() {
                        body[field] = json!(long);
                    }
                }
                if !body["messages"].is_null() {
                    body["messages"][0]["content"] = json!(long);
                }
                sending.refused(body.to_string().into(), &[400, 413]);
            }
            Self::BadGrammar => {
                let mut body = sending.json();
                if body["sampling_params"].is_null() {
                    body["regex"] = json!("(unclosed");
                } else {
                    body["sampling_params"]["regex"] = json!("(unclosed");
                }
                // Some APIs know no such field and pass it over.
                let knows = !body["sampling_params"].is_null() || !body["ignore_eos"].is_null();
                sending.refused(body.to_string().into(), if knows { &[400, 422] } else { &[200, 400, 422] });
            }
            Self::NoPath => {
                sending.head = sending.head.replacen(" HTTP", "/no/such/path HTTP", 1);
                sending.refused_early(&[404, 401]);
            }
            Self::NoMethod => {
                sending.head = sending.head.replacen("POST", "PATCH", 1);
                sending.refused_early(&[405]);
            }
            Self::WrongKey if has_keys => {
                sending.head = sending.head.replacen("Bearer key", "Bearer no-key", 1);
                sending.refused_early(&[401]);
            }
            Self::WrongKey => {}
            Self::Garbage => {
                let bytes = (0..rng.between(1, 3000)).map(|_| rng.below(256) as u8).collect();
                sending.pieces = vec![(bytes, 0)];
                sending.closes_writing = true;
                sending.wants_new_wire = true;
                sending.refusals = &[400, 408, 431];
                sending.lost();
            }
            Self::TwoLengths => {
                sending.head += "content-length: 3\r\n";
                sending.refused(sending.body.clone(), &[400]);
                sending.lost();
            }
            Self::Expect => {
                // One who does not wait for the word to go on.
                sending.head += "expect: 100-continue\r\n";
                sending.write(sending.body.len());
            }
        }
    }
}
