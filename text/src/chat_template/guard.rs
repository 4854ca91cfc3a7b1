//! [`guarded`]: a template's source in which whatever would write a value out, or go through all of it, is told first
//! how long that is.
//!
//! A list may hold another many times, which holds another many times: small in memory, endless on paper. Jinja's
//! operators and filters have no bound of their own for such a value, so the source is rewritten before it is
//! compiled. In `a ~ b` both sides become texts by [`TEXT`], which is bounded as `{{ }}` is; and what is compared,
//! looked up or given to a filter that reads it all passes [`BOUNDED`], which hands a value on if it is short enough; what
//! is kept for later passes [`SHALLOW`]:
//!
//! ```text
//! {{ a.b ~ c }}              {{ (a.b)|quern_text ~ (c)|quern_text }}
//! {% if a == b %}            {% if (a)|quern_bounded == b %}
//! {{ a|replace(b, 'c') }}    {{ a|quern_bounded|replace((b)|quern_bounded, 'c') }}
//! {% set a.b = [a.b] %}      {% set a.b = ([a.b])|quern_shallow(1) %}
//! ```

/// The filter that makes a text of a value, as `{{ }}` does.
pub(super) const TEXT: &str = "quern_text";

/// The filter that refuses a value which is too long to be gone through.
pub(super) const BOUNDED: &str = "quern_bounded";

/// The filter that refuses a value which is nested too deeply to be freed.
pub(super) const SHALLOW: &str = "quern_shallow";

/// The same of a value that is about to be in a namespace.
const KEPT: &str = "quern_shallow(1)";

/// Filters that look at the outside of a value, or that have bounds of their own.
const FILTERS_WITHOUT: &[&str] = &[
    TEXT, BOUNDED, SHALLOW, "length", "count", "first", "last", "default", "d", "list", "items", "reverse", "batch",
    "slice", "attr", "int", "float", "abs", "round", "bool", "safe", "string", "tojson",
];

/// Tests that do.
const TESTS_WITHOUT: &[&str] = &[
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "sequence",
    "iterable",
    "number",
    "integer",
    "int",
    "float",
    "boolean",
    "true",
    "false",
    "odd",
    "even",
    "divisibleby",
    "callable",
    "safe",
    "escaped",
    "sameas",
    "filter",
    "test",
];

/// `source` with every value that is written or gone through held to what that may cost.
pub(super) fn guarded(source: &str) -> String {
    let mut edits = Edits::default();
    let mut at = 0;
    while let Some(open) = source[at..].find('{').map(|open| at + open) {
        let is_block = match source.as_bytes().get(open + 1) {
            Some(b'#') => {
                at = source[open + 2..].find("#}").map_or(source.len(), |end| open + 2 + end + 2);
                continue;
            }
            Some(b'%') => true,
            Some(b'{') => false,
            _ => {
                at = open + 1;
                continue;
            }
        };
        // A sign beside the mark trims blanks.
        let inside = open + 2 + usize::from(matches!(source.as_bytes().get(open + 2), Some(b'-' | b'+')));
        if is_block && let Some(raw) = basic_tag(&source[inside..], "raw") {
            at = inside + raw;
            at = end_of_raw(source, at);
            continue;
        }
        let (tokens, end) = tokens(source, inside, if is_block { "%}" } else { "}}" });
        JinjaTag { source, tokens: &tokens, is_block }.guard(&mut edits);
        at = end;
    }
    edits.apply(source)
}

/// The length of a tag that says `name` and no more, behind its opening.
fn basic_tag(text: &str, name: &str) -> Option<usize> {
    let blank = |c: char| c.is_ascii_whitespace();
    let rest = text.trim_start_matches(blank).strip_prefix(name)?.trim_start_matches(blank);
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// Where the raw block ends that begins at `at`.
fn end_of_raw(source: &str, mut at: usize) -> usize {
    while let Some(open) = source[at..].find("{%").map(|open| at + open + 2) {
        let inside = open + usize::from(source[open..].starts_with(['-', '+']));
        if let Some(end) = basic_tag(&source[inside..], "endraw") {
            return inside + end;
        }
        at = open;
    }
    source.len()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    /// A text in quotes, or a number.
    Literal,
    Sign,
    Open,
    Close,
}

#[derive(Clone, Copy, Debug)]
struct JinjaToken {
    kind: Kind,
    start: usize,
    end: usize,
}

/// The tokens from `at` to the `mark` that ends their tag, outside of texts and brackets, and where the tag ends.
fn tokens(source: &str, mut at: usize, mark: &str) -> (Vec<JinjaToken>, usize) {
    let (mut tokens, mut depth) = (Vec::new(), 0isize);
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        if depth == 0 {
            let trimmed = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if let Some(end) = rest.strip_prefix(mark).or_else(|| trimmed.strip_prefix(mark)) {
                return (tokens, source.len() - end.len());
            }
        }
        let (kind, length) = match first {
            _ if first.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            '"' | '\'' => (Kind::Literal, length_of_text(rest)),
            '0'..='9' => (Kind::Literal, length_of_number(rest)),
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            _ if is_of_word(first) => (Kind::Word, rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())),
            _ if ["//", "**", "==", "!=", ">=", "<="].iter().any(|two| rest.starts_with(two)) => (Kind::Sign, 2),
            _ => (Kind::Sign, first.len_utf8()),
        };
        depth += isize::from(kind == Kind::Open) - isize::from(kind == Kind::Close);
        tokens.push(JinjaToken { kind, start: at, end: at + length });
        at += length;
    }
    (tokens, source.len())
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn length_of_text(text: &str) -> usize {
    let mut escaped = true;
    let quote = text.chars().next();
    let end = text.find(|c| {
        let ends = !escaped && Some(c) == quote;
        // The first is the quote that opens it.
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 1)
}

fn length_of_number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_part = |at: usize| match bytes[at] {
        b'.' => bytes.get(at + 1).is_some_and(u8::is_ascii_digit),
        byte => byte.is_ascii_alphanumeric() || byte == b'_',
    };
    (0..bytes.len()).find(|&at| !is_part(at)).unwrap_or(bytes.len())
}

/// What is written into a source.
#[derive(Default)]
struct Edits {
    /// Where, in which order at the same place, and what.
    list: Vec<(usize, isize, String)>,
}

impl Edits {
    fn insert(&mut self, at: usize, filter: &str) {
        self.list.push((at, 0, format!("|{filter}")));
    }

    /// Have what stands from `start` to `end` pass `filter`. The wider of two is around the other.
    fn wrap(&mut self, start: usize, end: usize, filter: &str) {
        let width = (end - start) as isize;
        self.list.push((start, isize::MAX - width, "(".into()));
        self.list.push((end, width - isize::MAX, format!(")|{filter}")));
    }

    fn apply(mut self, source: &str) -> String {
        self.list.sort_by_key(|(at, order, _)| (*at, *order));
        let (mut out, mut from) = (String::with_capacity(source.len() * 2), 0);
        for (at, _, text) in &self.list {
            out.push_str(&source[from..*at]);
            out.push_str(text);
            from = *at;
        }
        out + &source[from..]
    }
}

/// A tag.
struct JinjaTag<'a> {
    source: &'a str,
    tokens: &'a [JinjaToken],
    is_block: bool,
}

/// What a token is between two values of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    /// Part of a value.
    Value,
    /// Looser than every comparison, or no expression at all.
    Bound,
    Compare,
    Add,
    Concat,
}

impl JinjaTag<'_> {
    fn guard(&self, edits: &mut Edits) {
        self.level(0, self.tokens.len(), None, edits);
        let items = self.items(0, self.tokens.len());
        let is_set = self.is_block && items.first().is_some_and(|&first| self.text(first) == "set");
        let value = items.iter().position(|&index| self.text(index) == "=").map(|at| at + 1..items.len());
        if let Some(value) = value.filter(|value| is_set && !value.is_empty()) {
            let is_attribute = items[..value.start].iter().any(|&index| self.text(index) == ".");
            self.wrap(&items, value, if is_attribute { KEPT } else { SHALLOW }, edits);
        }
    }

    fn text(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", |token| &self.source[token.start..token.end])
    }

    /// The token behind the one at `index`, or behind the bracket that it opens.
    fn next(&self, index: usize, end: usize) -> usize {
        if self.tokens[index].kind != Kind::Open {
            return index + 1;
        }
        let mut depth = 0;
        for (at, token) in self.tokens[..end].iter().enumerate().skip(index) {
            depth += isize::from(token.kind == Kind::Open) - isize::from(token.kind == Kind::Close);
            if depth == 0 {
                return at + 1;
            }
        }
        end
    }

    /// The tokens from `begin` to `end` that are in no bracket of their own.
    fn items(&self, begin: usize, end: usize) -> Vec<usize> {
        let next = |&index: &usize| Some(self.next(index, end)).filter(|&next| next < end);
        std::iter::successors((begin < end).then_some(begin), next).collect()
    }

    /// What stands within one bracket, that of `opened`, or within none.
    fn level(&self, begin: usize, end: usize, opened: Option<usize>, edits: &mut Edits) {
        let items = self.items(begin, end);
        let between: Vec<Between> = (0..items.len()).map(|at| self.between(&items, at, opened)).collect();
        let is = |at: usize, what: Between| between.get(at) == Some(&what);
        // Values between what is looser than `with`.
        let values = |within: std::ops::Range<usize>, tighter: &[Between]| {
            let mut values = Vec::new();
            let mut from = within.start;
            for at in within.clone().chain([within.end]) {
                if at == within.end || !tighter.contains(&between[at]) {
                    values.push(from..at);
                    from = at + 1;
                }
            }
            values
        };
        for value in values(0..items.len(), &[Between::Value, Between::Add, Between::Concat]) {
            if value.is_empty() {
                continue;
            }
            let key = opened.is_some_and(|open| self.text(open) == "{") && self.is_sign(&items, value.end, ":");
            let subscript = opened.is_some_and(|open| self.is_subscript(open)) && value.len() == items.len();
            let compared = is(value.end, Between::Compare) && !self.is_quick(&items, value.end);
            if compared || key || subscript {
                self.wrap(&items, value.clone(), BOUNDED, edits);
            }
            for part in values(value.clone(), &[Between::Value]) {
                let before = part.start > value.start && is(part.start - 1, Between::Concat);
                if !part.is_empty() && (before || is(part.end, Between::Concat) && part.end < value.end) {
                    self.wrap(&items, part, TEXT, edits);
                }
            }
        }
        for (at, &index) in items.iter().enumerate() {
            match self.text(index) {
                "|" => {
                    let name = self.text(index + 1);
                    if !FILTERS_WITHOUT.contains(&name) && at > 0 {
                        edits.insert(self.tokens[index].start, BOUNDED);
                        self.arguments(index + 2, end, edits);
                    }
                }
                "is" if self.tokens[index].kind == Kind::Word && at > 0 => {
                    let name = self.text(index + 1 + usize::from(self.text(index + 1) == "not"));
                    if !TESTS_WITHOUT.contains(&name) {
                        edits.insert(self.tokens[index - 1].end, BOUNDED);
                    }
                }
                // It compares with what it was given before.
                "changed" => self.arguments(index + 1, end, edits),
                _ => {}
            }
            if self.tokens[index].kind == Kind::Open {
                let inner = self.next(index, end);
                let is_closed = self.tokens[inner - 1].kind == Kind::Close;
                self.level(index + 1, inner - usize::from(is_closed), Some(index), edits);
            }
        }
    }

    /// Hold each of the arguments to its bound whose bracket opens at `open`, if there is one.
    fn arguments(&self, open: usize, end: usize, edits: &mut Edits) {
        if open >= end || self.text(open) != "(" {
            return;
        }
        let close = self.next(open, end);
        let items = self.items(open + 1, close.saturating_sub(1));
        for argument in items.split(|&index| self.text(index) == ",") {
            let is_named = argument.len() > 2 && self.text(argument[1]) == "=";
            let value = if is_named { &argument[2..] } else { argument };
            if value.first().is_some_and(|&first| !self.text(first).starts_with('*')) {
                self.wrap(value, 0..value.len(), BOUNDED, edits);
            }
        }
    }

    fn wrap(&self, items: &[usize], value: std::ops::Range<usize>, filter: &str, edits: &mut Edits) {
        let (first, last) = (items[value.start], items[value.end - 1]);
        if first == last && self.tokens[first].kind == Kind::Literal {
            return;
        }
        let last = self.next(last, self.tokens.len()) - 1;
        edits.wrap(self.tokens[first].start, self.tokens[last].end, filter);
    }

    fn is_sign(&self, items: &[usize], at: usize, sign: &str) -> bool {
        items.get(at).is_some_and(|&index| self.text(index) == sign)
    }

    /// Whether the bracket looks something up rather than being a list of its own.
    fn is_subscript(&self, open: usize) -> bool {
        self.text(open) == "[" && open > 0 && self.ends_value(open - 1)
    }

    /// Whether a value may end with this token.
    fn ends_value(&self, index: usize) -> bool {
        const OPERATORS: &[&str] = &["and", "or", "not", "is", "in", "if", "elif", "else", "recursive"];
        let is_keyword = self.is_block && index == 0;
        match self.tokens[index].kind {
            Kind::Literal | Kind::Close => true,
            Kind::Word => !is_keyword && !OPERATORS.contains(&self.text(index)),
            Kind::Sign | Kind::Open => false,
        }
    }

    /// Whether the comparison at `at` looks at the outside of what is before it: it is compared with a number or a text.
    fn is_quick(&self, items: &[usize], at: usize) -> bool {
        let is_last =
            |at: usize| at >= items.len() || matches!(self.text(items[at]), "and" | "or" | "if" | "else" | ",");
        let literal = items.get(at + 1).is_some_and(|&index| self.tokens[index].kind == Kind::Literal);
        literal && is_last(at + 2) && !matches!(self.text(items[at]), "in" | "not")
    }

    fn between(&self, items: &[usize], at: usize, opened: Option<usize>) -> Between {
        let index = items[at];
        let text = self.text(index);
        let before = at.checked_sub(1).map(|at| items[at]);
        match (self.tokens[index].kind, text) {
            (Kind::Word, _) if self.is_block && opened.is_none() && at == 0 => Between::Bound,
            // `a.in` is an attribute.
            (Kind::Word, _) if before.is_some_and(|before| self.text(before) == ".") => Between::Value,
            (Kind::Word, "and" | "or" | "if" | "elif" | "else") => Between::Bound,
            (Kind::Word, "not") if before.is_some_and(|before| self.text(before) == "is") => Between::Value,
            (Kind::Word, "not") if items.get(at + 1).is_some_and(|&next| self.text(next) == "in") => Between::Compare,
            (Kind::Word, "not") => Between::Bound,
            (Kind::Word, "in") if before.is_some_and(|before| self.text(before) == "is") => Between::Value,
            (Kind::Word, "in") if before.is_some_and(|before| self.text(before) == "not") => Between::Bound,
            (Kind::Word, "in") if self.is_of_loop(items, at, opened) => Between::Bound,
            (Kind::Word, "in") | (Kind::Sign, "==" | "!=" | "<" | ">" | "<=" | ">=") => Between::Compare,
            (Kind::Sign, "," | ":" | "=") => Between::Bound,
            (Kind::Sign, "~") => Between::Concat,
            (Kind::Sign, "+" | "-") if index > 0 && before.is_some() && self.ends_value(index - 1) => Between::Add,
            _ => Between::Value,
        }
    }

    /// Whether this `in` is that of `{% for … in … %}`.
    fn is_of_loop(&self, items: &[usize], at: usize, opened: Option<usize>) -> bool {
        let first = items[..at].iter().all(|&index| self.text(index) != "in");
        self.is_block && opened.is_none() && first && self.text(items[0]) == "for"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(source: &str) -> String {
        guarded(source).replace(BOUNDED, "B").replace(TEXT, "T").replace(SHALLOW, "S")
    }

    #[test]
    fn what_is_written_or_gone_through_passes_a_filter() {
        for (source, wanted) in [
            ("{{ a.b ~ c }}", "{{ (a.b)|T ~ (c)|T }}"),
            ("{{- a~'x'~b[1] -}}", "{{- (a)|T~'x'~(b[1])|T -}}"),
            ("{{ a + b ~ -c * d - e }}", "{{ a + (b)|T ~ (-c * d)|T - e }}"),
            ("{{ 'x' ~ (a ~ b if c else d) }}", "{{ 'x' ~ (((a)|T ~ (b)|T if c else d))|T }}"),
            ("{{ f(a ~ b, c=d ~ 1) }}", "{{ f((a)|T ~ (b)|T, c=(d)|T ~ 1) }}"),
            ("{% if a == b and not c in d %}", "{% if (a)|B == b and not (c)|B in d %}"),
            ("{% if a == 'x' or a not in b %}", "{% if a == 'x' or (a)|B not in b %}"),
            ("{% if a in 'x' %}", "{% if (a)|B in 'x' %}"),
            ("{% if a ~ b == c %}", "{% if ((a)|T ~ (b)|T)|B == c %}"),
            ("{% for a in b if a is not none %}", "{% for a in b if a is not none %}"),
            ("{% for a, b in c|items if a in d %}", "{% for a, b in c|items if (a)|B in d %}"),
            ("{% if a is eq b %}", "{% if a|B is eq b %}"),
            ("{% if a is not in(b) %}", "{% if a|B is not in(b) %}"),
            ("{{ a|trim }}{{ a|length }}", "{{ a|B|trim }}{{ a|length }}"),
            ("{{ a|replace(b, 'c')|d(e) }}", "{{ a|B|replace((b)|B, 'c')|d(e) }}"),
            ("{{ a|join(sep, attribute=x.y) }}", "{{ a|B|join((sep)|B, attribute=(x.y)|B) }}"),
            ("{{ {a: b, 'c': d}[e] }}", "{{ {(a)|B: b, 'c': d}[(e)|B] }}"),
            ("{{ a[1:b] ~ [c][0] }}", "{{ (a[1:b])|T ~ ([c][0])|T }}"),
            ("{% set a = b ~ c %}", "{% set a = ((b)|T ~ (c)|T)|S %}"),
            ("{% set a.b = [1, c == d] %}", "{% set a.b = ([1, (c)|B == d])|S(1) %}"),
            ("{% macro f(a, b='x') %}", "{% macro f(a, b='x') %}"),
            ("{% if loop.changed(a) %}", "{% if loop.changed((a)|B) %}"),
            (
                "{# a ~ b #}{% raw %}{{ a ~ ' }}{%- endraw -%}{{ a ~ 1 }}",
                "{# a ~ b #}{% raw %}{{ a ~ ' }}{%- endraw -%}{{ (a)|T ~ 1 }}",
            ),
            ("{{ {'a': {'b': 1}} ~ '}}' }}", "{{ ({'a': {'b': 1}})|T ~ '}}' }}"),
            ("{ a ~ b } {{ '\\'~' ~ a }}", "{ a ~ b } {{ '\\'~' ~ (a)|T }}"),
        ] {
            assert_eq!(short(source), wanted, "{source}");
        }
    }

    #[test]
    fn no_source_is_too_broken_to_be_read() {
        let whole =
            "{% set a.b = -[1, {'c': d}][e](f, g=h) ~ 'i' is not in j|k(l) if m not in n else o == p %}{{ é ~ '";
        for (cut, _) in whole.char_indices() {
            guarded(&whole[..cut]);
            guarded(&whole[cut..]);
        }
        for source in [
            "{{",
            "{%",
            "{{}}",
            "{% in %}",
            "{{ | }}",
            "{{ is }}",
            "{{ ) }}",
            "{{ ~ }}",
            "{{ ]~[ }}",
            "{% raw %}",
            "{{ a|b( }}",
        ] {
            guarded(source);
        }
    }
}
