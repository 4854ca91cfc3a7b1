//! `agent`: coding agents at work. Each session is one conversation with tools that grows turn by turn, all
//! sessions begin with the same instructions, and between two turns the model's last words are replaced by a
//! scripted tool call and its result: so a run is the same whatever the model says, and every turn but the
//! first finds nearly all of its prompt in the cache of a server that has one.

use serde_json::{Value, json};

use super::{Dataset, DatasetArgs, Generators};
use crate::{
    random::PythonRandom,
    request::{Prompt, Request, Session},
};

pub(super) fn load(args: &DatasetArgs, count: usize, generators: &mut Generators) -> Dataset {
    let python = &mut generators.python;
    let instructions = prose(args.agent_system_len, python);
    let sessions = (0..count).map(|session| one_session(args, session, &instructions, python)).collect();
    Dataset { sessions, differs: None }
}

fn one_session(args: &DatasetArgs, session: usize, instructions: &str, python: &mut PythonRandom) -> Session {
    let system = format!("You are a coding agent. Work in small steps and use the tools.\n\n{instructions}");
    let task = format!("Task {session}: {}", prose(60, python));
    let mut messages = vec![json!({"role": "system", "content": system}), json!({"role": "user", "content": task})];
    let mut turns = Vec::with_capacity(args.agent_turns);
    for turn in 0..args.agent_turns {
        let mut request = Request::new(Prompt::Messages(messages.clone()), None, args.agent_output_len);
        request.extra.insert("tools".into(), tools());
        turns.push(request);
        // Results vary from half to one and a half of the mean.
        let words = args.agent_result_len / 2 + python.below(args.agent_result_len + 1);
        messages.extend(step(session, turn, words, python));
    }
    Session { turns, continues: false }
}

/// A tool call and what came of it.
fn step(session: usize, turn: usize, words: usize, python: &mut PythonRandom) -> [Value; 2] {
    let id = format!("call_{session}_{turn}");
    let path = format!("src/{}/{}.rs", WORDS[python.below(WORDS.len())], WORDS[python.below(WORDS.len())]);
    let (name, arguments) = match turn % 3 {
        0 => ("read_file", json!({"path": path})),
        1 => ("run_command", json!({"command": format!("grep -rn {} src", WORDS[python.below(WORDS.len())])})),
        _ => ("edit_file", json!({"path": path, "old": prose(12, python), "new": prose(16, python)})),
    };
    let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments.to_string()}});
    [
        json!({"role": "assistant", "content": prose(12, python), "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": id, "content": code(words, python)}),
    ]
}

fn tools() -> Value {
    let tool = |name: &str, description: &str, parameters: &[(&str, &str)]| {
        let properties: serde_json::Map<String, Value> = parameters
            .iter()
            .map(|(name, text)| ((*name).to_owned(), json!({"type": "string", "description": text})))
            .collect();
        let required: Vec<&str> = parameters.iter().map(|(name, _)| *name).collect();
        json!({"type": "function", "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": required},
        }})
    };
    json!([
        tool("read_file", "Read a text file of the project.", &[("path", "The file, relative to the project.")]),
        tool("list_files", "List a folder of the project.", &[("path", "The folder, relative to the project.")]),
        tool("run_command", "Run a shell command and return its output.", &[("command", "The command line.")]),
        tool(
            "edit_file",
            "Replace a piece of a file by another.",
            &[
                ("path", "The file, relative to the project."),
                ("old", "The piece, exactly as it stands there."),
                ("new", "What it becomes."),
            ],
        ),
    ])
}

fn prose(words: usize, python: &mut PythonRandom) -> String {
    let chosen: Vec<&str> = python.choices(WORDS.len(), words).into_iter().map(|i| WORDS[i]).collect();
    chosen.join(" ")
}

/// Words as lines of something like code, numbered as tools number them.
fn code(words: usize, python: &mut PythonRandom) -> String {
    let chosen: Vec<&str> = python.choices(WORDS.len(), words).into_iter().map(|i| WORDS[i]).collect();
    let lines = chosen.chunks(6).enumerate();
    lines.map(|(number, line)| format!("{:>4}  let {} = {};\n", number + 1, line[0], line[1..].join("."))).collect()
}

const WORDS: [&str; 64] = [
    "array", "batch", "block", "branch", "buffer", "build", "cache", "call", "channel", "check", "chunk", "client",
    "config", "count", "cursor", "decode", "default", "error", "event", "field", "file", "filter", "format", "frame",
    "guard", "handle", "header", "index", "input", "iter", "kernel", "key", "layer", "length", "limit", "line", "list",
    "lock", "map", "merge", "model", "module", "node", "offset", "output", "page", "parse", "path", "pool", "prefix",
    "queue", "range", "request", "result", "scan", "server", "slice", "state", "stream", "table", "token", "value",
    "window", "worker",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_begins_with_all_of_the_turn_before() {
        let args = crate::serving::tests_args(&["--dataset-name", "agent", "--agent-turns", "4"]).dataset;
        let dataset = load(&args, 2, &mut Generators::new(1));
        assert_eq!(dataset.sessions.len(), 2);
        for session in &dataset.sessions {
            let lengths: Vec<usize> = session
                .turns
                .windows(2)
                .map(|pair| match (&pair[0].prompt, &pair[1].prompt) {
                    (Prompt::Messages(before), Prompt::Messages(after)) => {
                        assert_eq!(&after[..before.len()], before.as_slice());
                        after.len() - before.len()
                    }
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(lengths, [2, 2, 2]);
        }
        let again = load(&args, 2, &mut Generators::new(1));
        assert_eq!(dataset.sessions, again.sessions, "the same seed gives the same sessions");
    }
}
