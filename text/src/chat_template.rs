//! [`ChatTemplate`]: a conversation becomes a prompt by the model's own Jinja template.
//!
//! The template is the checkpoint's, so it is code from outside: it runs on fuel, with bounded output and
//! recursion, and can reach nothing but its input. What users write is data: a control token spelled in
//! a message (`<|im_end|>`) stays text. To tell the two apart, such spellings are marked in the input
//! before rendering; whatever appears unmarked in the output was written by the template.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use minijinja::{
    Environment, ErrorKind, State, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Kwargs, Value},
};
use serde_json::{Map, Value as Json};

use crate::{
    json::{dumps, python_str, to_template},
    regular_file,
    rendered::Rendered,
    template_source,
    tokenizer_config::TokenizerConfig,
};

/// Longest template source.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// Longest prompt that a template may write.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// Work that any render may take: an instruction, or 64 bytes of what is made and gone through, cost one.
const LEAST_FUEL: u64 = 2_000_000;

/// What each byte of the input adds, so that a small request cannot cost what a large one may.
const FUEL_PER_BYTE: u64 = 16;

/// The most: a conversation of a hundred thousand messages needs less.
const MOST_FUEL: u64 = 20_000_000;

/// Bytes of JSON, or of Python's way to write a value, that a unit of fuel pays for.
const WRITTEN_PER_FUEL: u64 = 4;

/// Widest field of `str.format`.
const MAX_FIELD_WIDTH: usize = 4096;

/// Calls within calls.
const RECURSION_LIMIT: usize = 100;

/// What a template is given.
#[derive(Clone, Debug, Default)]
pub struct ChatPrompt {
    /// The conversation, as [`crate::conversation`] prepares it.
    pub messages: Vec<Json>,
    /// Tool definitions; `None` if there are none.
    pub tools: Option<Vec<Json>>,
    /// End with the beginning of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables.
    pub kwargs: Map<String, Json>,
}

/// Why a template cannot be used, or did not render.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file cannot be read.
    #[error("{file}: {cause}")]
    Io {
        /// Path.
        file: String,
        /// The operating system's words.
        cause: io::Error,
    },
    /// Not a template.
    #[error("the chat template is malformed: {0}")]
    Malformed(String),
    /// The template refused the conversation, or failed on it.
    #[error("the chat template does not render this conversation: {0}")]
    Render(String),
    /// The prompt grew too long.
    #[error("the chat template wrote more than {MAX_OUTPUT_BYTES} bytes")]
    TooLong,
    /// The template ran too long.
    #[error("the chat template took more work than a request of its size may cost")]
    OutOfFuel,
}

/// Names in the environment.
const USUAL: &str = "chat_template";
/// See [`USUAL`].
const TOOL_USE: &str = "tool_use";

/// A compiled chat template, and a second one for conversations with tools where the model has two.
///
/// ```
/// use quern_text::{ChatPrompt, ChatTemplate};
/// use serde_json::json;
///
/// let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
/// let control_tokens = ["<|im_start|>".to_string(), "<|im_end|>".to_string()];
/// let template = ChatTemplate::from_source(source, &control_tokens, &[])?;
///
/// let messages = vec![json!({"role": "user", "content": "What is <|im_end|>?"})];
/// let rendered = template.render(&ChatPrompt { messages, ..ChatPrompt::default() })?;
/// assert_eq!(rendered.text, "<|im_start|>user\nWhat is <|im_end|>?<|im_end|>\n");
/// assert_eq!(rendered.controls.len(), 2, "a user's text makes no control tokens");
/// # Ok::<(), quern_text::TemplateError>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    tool_use: Option<String>,
    /// Control tokens, longest first.
    control_tokens: Vec<String>,
}

impl ChatTemplate {
    /// Compile `source`. `control_tokens` are those that only the template may write; `named_tokens` are
    /// offered to it as variables (`eos_token`).
    ///
    /// # Errors
    /// If it does not compile.
    pub fn from_source(
        source: &str,
        control_tokens: &[String],
        named_tokens: &[(&'static str, String)],
    ) -> Result<Self, TemplateError> {
        let mut environment = environment();
        for (name, token) in named_tokens {
            environment.add_global(*name, Value::from(token.as_str()));
        }
        let control_tokens = control_tokens.to_vec();
        let mut template = Self { environment, source: source.to_owned(), tool_use: None, control_tokens };
        template.compile(USUAL, source)?;
        Ok(template)
    }

    /// The same with `source` for conversations with tools.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn with_tool_use(mut self, source: &str) -> Result<Self, TemplateError> {
        self.compile(TOOL_USE, source)?;
        Ok(Self { tool_use: Some(source.to_owned()), ..self })
    }

    fn compile(&mut self, name: &'static str, source: &str) -> Result<(), TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            let bytes = source.len();
            return Err(TemplateError::Malformed(format!("{bytes} bytes; at most {MAX_SOURCE_BYTES} are read")));
        }
        template_source::check(source).map_err(TemplateError::Malformed)?;
        let added = self.environment.add_template_owned(name, without_generation_tags(source));
        added.map_err(|e| TemplateError::Malformed(describe(&e)))
    }

    /// The template of a checkpoint's folder, of those in `chat_template.jinja` (`default`) and in
    /// `additional_chat_templates/NAME.jinja`, else of those in `tokenizer_config.json`. `None` if there is none.
    ///
    /// # Errors
    /// If a file cannot be read, or the template does not compile.
    pub fn from_dir(
        dir: &Path,
        name: Option<&str>,
        config: &TokenizerConfig,
        control_tokens: &[String],
    ) -> Result<Option<Self>, TemplateError> {
        let mut files = template_files(dir);
        // Transformers does not look further where there are files.
        let listed = config.chat_templates.iter().cloned();
        let named_there = |name: &str| config.chat_templates.iter().any(|(known, _)| known == name);
        if files.is_empty() || name.is_some_and(|name| !files.contains_key(name) && named_there(name)) {
            return Self::choose(&listed.collect::<Vec<_>>(), name, control_tokens, &config.named_tokens);
        }
        files.retain(|known, _| name.is_none_or(|name| name == known));
        let sources = files.into_iter().map(|(name, file)| Ok((name, read_source(&file)?)));
        Self::choose(&sources.collect::<Result<Vec<_>, _>>()?, name, control_tokens, &config.named_tokens)
    }

    /// The template called `name` of `templates`, `(name, source)` of each. Without a name it is `default`, or the
    /// only one, and `tool_use` for conversations with tools if there is one, as in transformers.
    ///
    /// # Errors
    /// If there is none of that name, or it does not compile.
    pub fn choose(
        templates: &[(String, String)],
        name: Option<&str>,
        control_tokens: &[String],
        named_tokens: &[(&'static str, String)],
    ) -> Result<Option<Self>, TemplateError> {
        let find = |wanted: &str| templates.iter().find(|(known, _)| known == wanted).map(|(_, source)| source);
        let usual = match (name, templates) {
            (Some(name), _) => find(name),
            (None, [(_, only)]) => Some(only),
            (None, _) => find("default"),
        };
        let Some(usual) = usual else { return Ok(None) };
        let template = Self::from_source(usual, control_tokens, named_tokens)?;
        match find(TOOL_USE).filter(|source| name.is_none() && *source != usual) {
            Some(source) => template.with_tool_use(source).map(Some),
            None => Ok(Some(template)),
        }
    }

    /// The source it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The source of the one for conversations with tools, if that is another.
    pub fn tool_use_source(&self) -> Option<&str> {
        self.tool_use.as_deref()
    }

    /// Render a conversation. If it raises with tools as `{type, function}` objects, it is tried once
    /// more with the bare functions, which older templates expect.
    ///
    /// # Errors
    /// If the template raises, or runs beyond its limits.
    pub fn render(&self, prompt: &ChatPrompt) -> Result<Rendered, TemplateError> {
        let marker = Marker::choose(prompt);
        let first = self.render_with(prompt, prompt.tools.as_deref(), &marker);
        let bare: Option<Vec<Json>> = match (&first, &prompt.tools) {
            (Err(TemplateError::Render(_)), Some(tools)) => tools.iter().map(|t| t.get("function").cloned()).collect(),
            _ => None,
        };
        match bare {
            Some(bare) => self.render_with(prompt, Some(&bare), &marker).or(first),
            None => first,
        }
    }

    fn render_with(
        &self,
        prompt: &ChatPrompt,
        tools: Option<&[Json]>,
        marker: &Marker,
    ) -> Result<Rendered, TemplateError> {
        let marked = |values: &[Json]| -> Value {
            values.iter().map(|v| to_template(&self.marked(v, marker))).collect::<Vec<_>>().into()
        };
        let mut variables = vec![
            ("messages".to_string(), marked(&prompt.messages)),
            ("add_generation_prompt".to_string(), Value::from(prompt.add_generation_prompt)),
            ("tools".to_string(), tools.map_or(Value::from(()), marked)),
        ];
        for (key, value) in &prompt.kwargs {
            variables.retain(|(name, _)| name != key);
            variables.push((key.clone(), to_template(&self.marked(value, marker))));
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(prompt)));
        let name = if self.tool_use.is_some() && prompt.tools.is_some() { TOOL_USE } else { USUAL };
        let template = environment.get_template(name).expect("added when compiled");
        let mut output = Bounded::default();
        match template.render_captured_to(Value::from_pairs(variables), &mut output) {
            Ok(_) => {}
            Err(_) if output.full => return Err(TemplateError::TooLong),
            Err(e) if e.kind() == ErrorKind::OutOfFuel => return Err(TemplateError::OutOfFuel),
            Err(e) => return Err(TemplateError::Render(describe(&e))),
        }
        let text = String::from_utf8(output.bytes).expect("templates write text");
        Ok(self.unmarked(&text, marker))
    }

    /// `value` with every spelling of a control token marked.
    fn marked(&self, value: &Json, marker: &Marker) -> Json {
        match value {
            Json::String(text) => Json::String(marker.mark(text, &self.control_tokens)),
            Json::Array(items) => items.iter().map(|item| self.marked(item, marker)).collect(),
            Json::Object(fields) => {
                let fields = fields.iter();
                let field = |(k, v): (&String, &Json)| (marker.mark(k, &self.control_tokens), self.marked(v, marker));
                Json::Object(fields.map(field).collect())
            }
            other => other.clone(),
        }
    }

    /// The output without marks, and where the template's own control tokens are in it.
    fn unmarked(&self, text: &str, marker: &Marker) -> Rendered {
        let mut out = Rendered { text: String::with_capacity(text.len()), controls: Vec::new() };
        let firsts: Vec<char> = self.control_tokens.iter().filter_map(|t| t.chars().next()).collect();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if firsts.contains(&next)
                && let Some(token) = self.control_tokens.iter().find(|t| rest.starts_with(t.as_str()))
            {
                out.controls.push(out.text.len()..out.text.len() + token.len());
                out.text.push_str(token);
                rest = &rest[token.len()..];
                continue;
            }
            if next != marker.0 {
                out.text.push(next);
            }
            rest = &rest[next.len_utf8()..];
        }
        out
    }
}

/// Read a template's file.
///
/// # Errors
/// If it cannot be read, or is larger than any template.
pub fn read_source(file: &Path) -> Result<String, TemplateError> {
    let name = file.display().to_string();
    let io = |cause| TemplateError::Io { file: name.clone(), cause };
    let bytes = regular_file::length(file).map_err(io)?;
    if bytes > MAX_SOURCE_BYTES as u64 {
        return Err(TemplateError::Malformed(format!("{name} has {bytes} bytes; at most {MAX_SOURCE_BYTES} are read")));
    }
    std::fs::read_to_string(file).map_err(io)
}

/// The folder's templates by name.
fn template_files(dir: &Path) -> BTreeMap<String, PathBuf> {
    let more = std::fs::read_dir(dir.join("additional_chat_templates")).into_iter().flatten().flatten();
    let more = more.map(|entry| entry.path()).filter(|file| file.extension().is_some_and(|suffix| suffix == "jinja"));
    let mut files: BTreeMap<String, PathBuf> =
        more.filter_map(|file| Some((file.file_stem()?.to_str()?.to_owned(), file))).collect();
    let default = dir.join("chat_template.jinja");
    if default.exists() {
        files.insert("default".into(), default);
    }
    files
}

/// `source` without `{% generation %}` and its end, by which trainers mark what the model wrote: what lies between
/// is rendered as if they were not there.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        // Behind the two bytes that open it: those of `{%}` are not its end.
        let Some(end) = tag[2..].find("%}").map(|at| at + 2) else {
            rest = tag;
            break;
        };
        let inside = &tag[2..end];
        let word = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match word {
            // The signs beside the tag, which trim blanks, stay.
            "generation" => out.push_str(&format!("{{%{}%}}", inside.replace(word, "if true"))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", inside.replace(word, "endif"))),
            _ => out.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    out + rest
}

/// A character that occurs nowhere in the input, put behind the first character of what must not be
/// taken for a control token.
struct Marker(char);

impl Marker {
    /// Unicode sets aside noncharacters and a plane for private use; the first that the input lacks is
    /// taken. One pass over the input notes which it has.
    fn choose(prompt: &ChatPrompt) -> Self {
        let mut used = HashSet::new();
        let everything = prompt.messages.iter().chain(prompt.tools.iter().flatten()).chain(prompt.kwargs.values());
        everything.for_each(|value| note_candidates(value, &mut used));
        let mut candidates = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}');
        // Where all are used, the first loses its own occurrences, and no control token comes of it.
        Self(candidates.find(|c| !used.contains(c)).unwrap_or('\u{fdd0}'))
    }

    fn mark(&self, text: &str, control_tokens: &[String]) -> String {
        let mut text = text.to_string();
        for token in control_tokens {
            if text.contains(token.as_str()) {
                let mut marked = token.clone();
                marked.insert(token.chars().next().map_or(0, char::len_utf8), self.0);
                text = text.replace(token.as_str(), &marked);
            }
        }
        text
    }
}

/// Add the candidates for a marker that occur in `value`.
fn note_candidates(value: &Json, used: &mut HashSet<char>) {
    let mut note = |text: &str| {
        used.extend(text.chars().filter(|c| matches!(c, '\u{fdd0}'..='\u{fdef}' | '\u{f0000}'..='\u{ffffd}')));
    };
    match value {
        Json::String(text) => note(text),
        Json::Array(items) => items.iter().for_each(|item| note_candidates(item, used)),
        Json::Object(fields) => {
            fields.keys().for_each(|key| note(key));
            fields.values().for_each(|field| note_candidates(field, used));
        }
        _ => {}
    }
}

/// Jinja as transformers sets it up for chat templates.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" && value.as_str().is_some_and(has_wide_field) {
            let told = format!("format: fields of variable width, or wider than {MAX_FIELD_WIDTH}, are not written");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, told));
        }
        match (method, value.as_str(), args) {
            ("join", Some(separator), [list]) => joined(separator, list, writable(state)),
            _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
        }
    });
    env.set_formatter(|out, state, value| {
        if !value.is_undefined() {
            out.write_str(&python_str(value, writable(state))?)?;
        }
        Ok(())
    });
    env.add_filter("tojson", |state: &State, value: Value, kwargs: Kwargs| {
        let indent = kwargs.get::<Option<usize>>("indent")?;
        let _ = kwargs.get::<Option<bool>>("ensure_ascii")?;
        kwargs.assert_all_used()?;
        dumps(&value, indent.map(|n| n.min(16)), writable(state))
    });
    env.add_filter("string", |state: &State, value: Value| python_str(&value, writable(state)));
    // In Python `None` is not iterable; here it would be, as an empty sequence.
    env.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("range", bounded_range);
    env.add_function("strftime_now", strftime_now);
    env
}

/// The local time by the signs of C's `strftime`, as transformers offers it to templates.
/// What rendering `prompt` may cost.
fn fuel(prompt: &ChatPrompt) -> u64 {
    fn bytes(value: &Json) -> u64 {
        const EACH: u64 = 8;
        EACH + match value {
            Json::String(text) => text.len() as u64,
            Json::Array(items) => items.iter().map(bytes).sum(),
            Json::Object(fields) => fields.iter().map(|(key, value)| key.len() as u64 + bytes(value)).sum(),
            _ => 0,
        }
    }
    let lists = prompt.messages.iter().chain(prompt.tools.iter().flatten()).chain(prompt.kwargs.values());
    let given: u64 = lists.map(bytes).sum();
    given.saturating_mul(FUEL_PER_BYTE).saturating_add(LEAST_FUEL).min(MOST_FUEL)
}

/// Bytes that a value may take when it is written out whole: a value that holds another many times is larger than the
/// memory it takes.
fn writable(state: &State) -> usize {
    let left = state.fuel_levels().map_or(MOST_FUEL, |(_, left)| left);
    usize::try_from(left.saturating_mul(WRITTEN_PER_FUEL)).unwrap_or(usize::MAX).min(MAX_OUTPUT_BYTES)
}

/// `separator.join(list)`, of at most `limit` bytes: a list of one long text many times is short.
fn joined(separator: &str, list: &Value, limit: usize) -> Result<Value, minijinja::Error> {
    let mut out = String::new();
    for (index, item) in list.try_iter()?.enumerate() {
        let item = python_str(&item, limit)?;
        if out.len() + separator.len() + item.len() > limit {
            return Err(ErrorKind::OutOfFuel.into());
        }
        out.push_str(if index == 0 { "" } else { separator });
        out.push_str(&item);
    }
    Ok(Value::from(out))
}

/// Whether `str.format` would pad one of the fields in `format` beyond what it is worth, or as an argument says.
fn has_wide_field(format: &str) -> bool {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut wide = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX) > MAX_FIELD_WIDTH);
    let is_nested = format.replace("{{", "").split('{').skip(1).any(|field| !field.contains('}'));
    wide.any(|wide| wide) || is_nested
}

fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    let written = write!(text, "{}", chrono::Local::now().format(format));
    let refused =
        |_| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: no format: {format:?}"));
    written.map(|()| text).map_err(refused)
}

/// Longest `range` a template may ask for.
const MAX_RANGE: i64 = 1_000_000;

/// Python's `range`, refused when it is long enough to be an attack.
fn bounded_range(start: i64, stop: Option<i64>, step: Option<i64>) -> Result<Vec<i64>, minijinja::Error> {
    let wrong = |what: &str| minijinja::Error::new(ErrorKind::InvalidOperation, format!("range: {what}"));
    let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(wrong("the step is 0"));
    }
    let length = (i128::from(stop) - i128::from(start)) / i128::from(step);
    if length > i128::from(MAX_RANGE) {
        return Err(wrong("more than 1000000 numbers"));
    }
    let numbers = std::iter::successors(Some(start), |n| n.checked_add(step));
    Ok(numbers.take_while(|n| if step > 0 { *n < stop } else { *n > stop }).collect())
}

/// An error with its line, and the cause beneath it.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    if let Some(line) = error.line() {
        text += &format!(" (line {line})");
    }
    text
}

/// Output with an end.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MAX_OUTPUT_BYTES {
            self.full = true;
            return Err(io::Error::other("the output is full"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tag_that_closes_in_what_opens_it_is_malformed_and_not_a_panic() {
        for source in ["{%}", "a{%}b", "{% generation %}{%}", "{%", "{%}%}"] {
            assert!(ChatTemplate::from_source(source, &[], &[]).is_err(), "{source}");
        }
    }

    #[test]
    fn the_marker_is_what_the_input_lacks_however_much_it_has() {
        let candidates: Vec<char> = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}').collect();
        let prompt = |used: &[char]| {
            let text = "a".repeat(4 << 20) + &used.iter().collect::<String>();
            ChatPrompt { messages: vec![json!({"role": "user", "content": [text]})], ..ChatPrompt::default() }
        };
        assert_eq!(Marker::choose(&prompt(&[])).0, candidates[0]);
        // Looking for each candidate in all of the text would take minutes.
        let last = candidates.len() - 1;
        assert_eq!(Marker::choose(&prompt(&candidates[..last])).0, candidates[last]);
        assert_eq!(Marker::choose(&prompt(&candidates)).0, candidates[0]);
        let keys = ChatPrompt { tools: Some(vec![json!({"\u{fdd0}": 1})]), ..ChatPrompt::default() };
        assert_eq!(Marker::choose(&keys).0, candidates[1]);
    }

    fn compiled(source: &str) -> ChatTemplate {
        ChatTemplate::from_source(source, &[], &[]).unwrap_or_else(|error| panic!("{source}: {error}"))
    }

    #[test]
    fn a_small_request_buys_a_template_little_work_whatever_it_makes() {
        let doubled = |what: &str, times: u32| {
            format!(
                "{{% set ns = namespace(x={what}) %}}{{% for i in range({times}) %}}{{% set ns.x = STEP %}}{{% endfor %}}"
            )
        };
        let texts = doubled("'aaaaaaaaaa'", 40);
        let lists = doubled("[1]", 100).replace("STEP", "[ns.x, ns.x]");
        for source in [
            texts.replace("STEP", "ns.x + ns.x"),
            texts.replace("STEP", "ns.x ~ ns.x"),
            // A value that is small in memory and endless on paper.
            lists.clone() + "{{ ns.x }}",
            lists.clone() + "{{ ns.x | tojson | length }}",
            lists.clone() + "{{ ns.x | string | length }}",
            lists.clone() + "{{ {'a': ns.x} | tojson(indent=4) }}",
            lists + "{{ ','.join([ns.x]) | length }}",
            "{{ ('a' * 4000000000) | length }}".into(),
            "{{ ([1] * 1000000000) | length }}".into(),
            "{{ '{:>999999999}'.format(5) | length }}".into(),
            "{{ '{:.999999999f}'.format(5.0) | length }}".into(),
            "{{ '{:{w}}'.format(5, w=999999999) | length }}".into(),
            "{{ '%999999999d' | format(5) | length }}".into(),
            "{{ range(100000) | join('x' * 100000) | length }}".into(),
            "{{ 'x'.join(['y' * 100000] * 100000) | length }}".into(),
            "{{ 'aaaa' | replace('a', 'a' * 1000000) | replace('a', 'a' * 1000000) | length }}".into(),
            "{{ ('a' * 1000000).replace('a', 'a' * 1000000) | length }}".into(),
            "{{ ('x\n' * 1000000) | indent(1000000) | length }}".into(),
            "{{ ('a,' * 100000000).split(',') | length }}".into(),
            "{% for i in range(999999) %}{% for j in range(999999) %}{% endfor %}{% endfor %}".into(),
            "{% for i in range(9999) %}{{ range(99999) | sum }}{% endfor %}".into(),
        ] {
            let rendered = compiled(&source).render(&ChatPrompt::default());
            assert!(
                matches!(rendered, Err(TemplateError::OutOfFuel | TemplateError::TooLong | TemplateError::Render(_))),
                "{source}: {:?}",
                rendered.map(|rendered| rendered.text.len())
            );
        }
        // What is written for people stays.
        let source = "{{ '{:>8}|{:.2f}|{}'.format('a', 1.5, 'b') }} {{ '%05d' | format(7) }}";
        assert_eq!(compiled(source).render(&ChatPrompt::default()).unwrap().text, "       a|1.50|b 00007");
    }

    #[test]
    fn a_large_request_buys_its_template_more() {
        let source = "{% for m in messages %}{% for i in range(400) %}{% if i == m.content %}{% endif %}{% endfor %}{% endfor %}";
        let prompt = |count| ChatPrompt {
            messages: vec![json!({"role": "user", "content": "x".repeat(400)}); count],
            ..ChatPrompt::default()
        };
        compiled(source).render(&prompt(2000)).unwrap();
        let (small, large) = (fuel(&prompt(1)), fuel(&prompt(2000)));
        assert!(small < 2_010_000 && large > 10_000_000, "{small} {large}");
        assert_eq!(fuel(&prompt(100_000)), MOST_FUEL);
    }

    /// At the limits of a source, what parses, compiles and drops it fits the stack of any thread.
    #[test]
    fn the_longest_chains_fit_a_thread() {
        let chains = ["+1", " and 1", "~1", "()", "**1", ".a", "|upper"].map(|link| {
            let links =
                (1..=1000).rev().find(|&n| template_source::check(&format!("{{{{ 1{} }}}}", link.repeat(n))).is_ok());
            format!("{{{{ 1{} }}}}", link.repeat(links.expect("one link is fine")))
        });
        let branches = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(500));
        let compile = move || {
            for source in chains.iter().chain([&branches]) {
                drop(ChatTemplate::from_source(source, &[], &[]));
            }
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(compile).unwrap().join().unwrap();
    }
}
