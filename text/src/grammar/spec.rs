//! [`GrammarSpec`]: what an output must obey, as a request says it.

use serde_json::Value;

/// A constraint, before it is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid under this schema, with the factory's blanks between its tokens.
    JsonSchema(Value),
    /// The whole output matches this expression (the `regex` crate's syntax, without look-around).
    Regex(String),
    /// The output is a sentence of this grammar, in the dialect of GBNF and XGrammar.
    Ebnf(String),
    /// Free text with constrained tags in it, in either of SGLang's forms.
    StructuralTag(Value),
    /// Calls of tools in the model's own markup.
    ToolCalls {
        /// The request's tools, as in `ToolSchemas::new`, with [`INPUT_GRAMMAR`](super::INPUT_GRAMMAR) where a tool
        /// takes a text of some form.
        tools: Vec<Value>,
        /// Which calls, and whether there must be one.
        choice: CallChoice,
        /// More than one call is allowed.
        parallel: bool,
    },
}

/// Which calls an output makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallChoice {
    /// At least one, of any tool, the first at once, and no text: a model that may talk may talk until its limit.
    Required,
    /// One call of this tool and nothing else.
    Named(String),
    /// None or some; those of tools marked `strict` follow their schemas.
    AutoStrict,
    /// Nothing but some, those of tools marked `strict` following their schemas, or an answer under this constraint.
    OrAnswer(Box<GrammarSpec>),
}

impl GrammarSpec {
    /// One of these texts.
    pub fn choice(texts: &[String]) -> Self {
        let texts: Vec<String> = texts.iter().map(|text| regex_syntax::escape(text)).collect();
        Self::Regex(format!("({})", texts.join("|")))
    }

    /// What SGLang calls this kind in its messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => "json",
            Self::Regex(_) => "regex",
            Self::Ebnf(_) => "ebnf",
            Self::StructuralTag(_) | Self::ToolCalls { .. } => "structural_tag",
        }
    }
}

/// Why a constraint cannot be used, or an output cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The source does not compile. The words are SGLang's.
    #[error("Failed to compile {kind} grammar: {cause}")]
    Compile {
        /// Which kind of source.
        kind: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// The automaton cannot go on, its limits above all.
    #[error("{0}")]
    Step(String),
    /// The vocabulary is not one that can be constrained.
    #[error("the tokenizer cannot be constrained: {0}")]
    Tokenizer(String),
}
