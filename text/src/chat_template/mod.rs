//! [`ChatTemplate`]: a conversation becomes a prompt by the model's own Jinja template.
//!
//! The template is the checkpoint's, so it is code from outside: it runs on fuel, with bounded output and
//! recursion, and can reach nothing but its input. What users write is data: a control token spelled in
//! a message (`<|im_end|>`) stays text. To tell the two apart, such spellings are marked in the input
//! before rendering; whatever appears unmarked in the output was written by the template.

mod budget;
mod environment;
mod guard;
mod marker;
mod prompt;
mod source;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use minijinja::{Environment, ErrorKind, value::Value};
use serde_json::Value as Json;

pub use self::prompt::ChatPrompt;
use self::{
    budget::{BoundedOutput, MAX_OUTPUT_BYTES, fuel},
    environment::environment,
    guard::guarded,
    marker::Marker,
    source::MAX_SOURCE_BYTES,
};
use crate::{json::to_template, regular_file, rendered::Rendered, tokenizer_config::TokenizerConfig};

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
        source::check(source).map_err(TemplateError::Malformed)?;
        let added = self.environment.add_template_owned(name, guarded(&source::without_generation_tags(source)));
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
        let marker = Marker::choose(&self.control_tokens, prompt);
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
        marker: &Marker<'_>,
    ) -> Result<Rendered, TemplateError> {
        let marked = |values: &[Json]| -> Value {
            values.iter().map(|v| to_template(&marker.mark(v))).collect::<Vec<_>>().into()
        };
        let mut variables = vec![
            ("messages".to_string(), marked(&prompt.messages)),
            ("add_generation_prompt".to_string(), Value::from(prompt.add_generation_prompt)),
            ("tools".to_string(), tools.map_or(Value::from(()), marked)),
        ];
        for (key, value) in &prompt.kwargs {
            variables.retain(|(name, _)| name != key);
            variables.push((key.clone(), to_template(&marker.mark(value))));
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(prompt)));
        let name = if self.tool_use.is_some() && prompt.tools.is_some() { TOOL_USE } else { USUAL };
        let template = environment.get_template(name).expect("added when compiled");
        budget::begin();
        let mut output = BoundedOutput::default();
        match template.render_captured_to(Value::from_pairs(variables), &mut output) {
            Ok(_) => {}
            Err(_) if output.full => return Err(TemplateError::TooLong),
            Err(e) if e.kind() == ErrorKind::OutOfFuel => return Err(TemplateError::OutOfFuel),
            Err(e) => return Err(TemplateError::Render(describe(&e))),
        }
        let text = String::from_utf8(output.bytes).expect("templates write text");
        Ok(marker.unmark(&text))
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

/// An error with its line, and the cause beneath it.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    if let Some(line) = error.line() {
        text += &format!(" (line {line})");
    }
    text
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
            lists.clone() + "{{ ','.join([ns.x]) | length }}",
            lists.clone() + "{{ (ns.x ~ '') | length }}",
            lists.clone() + "{{ 'a' ~ ns.x ~ 'b' }}",
            lists.clone() + "{{ ('a' ~ [1] + ns.x ~ 'b') | length }}",
            lists.clone() + "{{ '%s' | format(ns.x) | length }}",
            lists.clone() + "{{ '{}'.format(ns.x) | length }}",
            lists.clone() + "{{ ns.x | pprint | length }}",
            lists.clone() + "{{ ns.x | upper | length }}",
            lists.clone() + "{{ [ns.x] | map('upper') | list | length }}",
            lists.clone() + "{{ ns.x | join | length }}",
            lists.clone() + "{{ 'a' | replace('a', ns.x) | length }}",
            lists.clone() + "{{ 'a' | indent(2, ns.x) | length }}{{ ns.x | indent | length }}",
            lists.clone() + "{{ ns.x | urlencode | length }}{{ ns.x | e | length }}",
            lists.clone() + "{{ ns.x in 'a' }}{{ ns.x not in 'a' }}",
            lists.clone() + "{{ raise_exception(ns.x) }}",
            lists.clone() + "{{ debug() }}{{ ns.x | e }}",
            lists.clone()
                + "{% set y = ns.x %}"
                + lists.split_once("%}").expect("two tags").1
                + "{{ ns.x == y }}{{ [ns.x, 1] | sort }}",
            lists.clone() + "{{ {ns.x: 1} }}{{ {1: 2}[ns.x] }}{{ {1: 2}.get(ns.x) }}",
            lists + "{{ ns | string | length }}{{ (ns ~ '') | length }}",
            "{{ ([1] * 1000000000 ~ '') | length }}".into(),
            "{% set x = ([1] * 1000000) %}{% for i in range(9999) %}{{ (x ~ '') | length }}{{ x == [2] }}{% endfor %}"
                .into(),
            // A value that is too deep to be freed.
            doubled("[1]", 300_000).replace("STEP", "[ns.x]") + "{{ ns.x | length }}",
            doubled("[1]", 300_000).replace("STEP", "{'a': [0, ns.x]}") + "{{ ns.x | length }}",
            "{% set x = [x] %}".repeat(60_000) + "{{ x | length }}",
            // A value that holds itself.
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ (ns ~ '') | length }}{{ ns | pprint }}".into(),
            "{% set ns = namespace() %}{% set ns.x = [ns, ns] %}{{ ns | upper | length }}".into(),
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
        assert_eq!(fuel(&prompt(100_000)), budget::MOST_FUEL);
    }

    /// At the limits of a source, what parses, compiles and drops it fits the stack of any thread.
    #[test]
    fn the_longest_chains_fit_a_thread() {
        let chains = ["+1", " and 1", "~1", "()", "**1", ".a", "|upper"].map(|link| {
            let links = (1..=1000).rev().find(|&n| source::check(&format!("{{{{ 1{} }}}}", link.repeat(n))).is_ok());
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
