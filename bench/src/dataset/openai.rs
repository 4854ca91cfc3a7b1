//! `openai`: chat requests as users have kept them, one a line.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Dataset, DatasetArgs};
use crate::{
    data_file::read_text,
    error::BenchError,
    request::{Prompt, Request, Session},
};

/// Tokens to generate where neither the line nor a flag says.
const OUTPUT_LEN: usize = 256;
/// Fields that the run sets itself.
const OURS: [&str; 6] = ["messages", "max_tokens", "max_completion_tokens", "model", "stream", "stream_options"];

/// The first `count` requests of the file, in its order. Lines that are no JSON, and those without messages,
/// are passed over. Prompts are counted by the server.
pub(super) fn load(args: &DatasetArgs, count: usize) -> Result<Dataset, BenchError> {
    let text = read_text(Path::new(&args.dataset_path))?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Map<String, Value>>(line.trim()).ok());
    let sessions: Vec<Session> = lines.take(count).filter_map(|line| request(args, line)).map(Session::from).collect();
    if sessions.is_empty() {
        let path = args.dataset_path.clone().into();
        return Err(BenchError::Content { path, problem: "no line with `messages`".into() });
    }
    Ok(Dataset { sessions, differs: None })
}

fn request(args: &DatasetArgs, mut line: Map<String, Value>) -> Option<Request> {
    let messages = line.get_mut("messages")?.as_array_mut().map(std::mem::take).filter(|all| !all.is_empty())?;
    let length = |key| line.get(key).and_then(Value::as_u64).map(|length| length as usize);
    let own = length("max_tokens").or_else(|| length("max_completion_tokens"));
    let output_len = args.sharegpt_output_len.or(own).unwrap_or(OUTPUT_LEN);
    line.retain(|key, _| !OURS.contains(&key.as_str()));
    let mut request = Request::new(Prompt::Messages(messages), None, output_len);
    request.extra = line;
    Some(request)
}
