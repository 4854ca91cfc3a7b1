//! GBNF, as llama.cpp and XGrammar read it, as a grammar of ours.
//!
//! ```text
//! root   ::= item ("," ws item)*      # a comment
//! item   ::= [a-z]+ | "(" root ")" | "\"" [^"\\]{0,20} "\""
//! ws     ::= [ \t\n]*
//! ```
//!
//! A GBNF grammar has no lexer; an Earley parser that goes byte by byte along 150,000 tokens is too slow to
//! do without one. So whatever is regular becomes a terminal: a rule that leads to no recursion, and within
//! a recursive rule each longest run of regular parts. A grammar without recursion is thereby one
//! expression, exactly. In a recursive one a terminal takes all it can: `[a-z]* rest`, where `rest` is
//! recursive and begins with a letter, finds no beginning of `rest`.
//!
//! Not supported, and said so: look-ahead `(?=…)` and XGrammar's `TagDispatch`.

use std::collections::HashMap;

use super::{
    bounds,
    lark::{Lark, literal, regex, repeat},
};

/// Most rules.
const MAX_RULES: usize = 2000;

/// Longest chain of rules that refer to each other: each is a step of a recursion in llguidance's compiler.
const MAX_CHAIN: usize = 200;

/// Largest number in `{m,n}`.
const MAX_REPEAT: u32 = 10_000;

/// The same where the repeated part is recursive, which copies it.
const MAX_RULE_REPEAT: u32 = 256;

/// Translate `source`, whose first rule is `root`.
pub(super) fn to_lark(source: &str) -> Result<String, String> {
    bounds::source(source)?;
    let rules = EbnfParser { rest: source, line: 1, names: HashMap::new(), bodies: Vec::new() }.rules()?;
    let regular = regular_rules(&rules.bodies)?;
    let (names, terminals) = (vec![None; rules.bodies.len()], vec![None; rules.bodies.len()]);
    let mut writer = EbnfWriter { bodies: &rules.bodies, regular, names, terminals, lark: Lark::default() };
    let start = writer.named_rule(rules.root)?;
    Ok(writer.lark.finish(&start))
}

/// Part of a rule's body.
#[derive(Debug)]
enum Expr {
    Literal(String),
    /// A class in the `regex` crate's syntax.
    Class(String),
    Rule(usize),
    Sequence(Vec<Expr>),
    Choice(Vec<Expr>),
    /// At least so often, and at most.
    Repeat(Box<Expr>, u32, Option<u32>),
}

struct Rules {
    bodies: Vec<Expr>,
    root: usize,
}

struct EbnfParser<'a> {
    rest: &'a str,
    line: usize,
    /// Rules by name, those included that are only referred to so far.
    names: HashMap<&'a str, usize>,
    bodies: Vec<Option<Expr>>,
}

impl<'a> EbnfParser<'a> {
    fn rules(mut self) -> Result<Rules, String> {
        self.blanks();
        while !self.rest.is_empty() {
            let Some(name) = self.name() else { return Err(self.error("expected the name of a rule")) };
            self.blanks();
            if !self.take("::=") {
                return Err(self.error(&format!("expected ::= after {name}")));
            }
            let body = self.choice(0)?;
            let rule = self.rule(name)?;
            if self.bodies[rule].replace(body).is_some() {
                return Err(self.error(&format!("the rule {name} is defined twice")));
            }
        }
        let root = *self.names.get("root").ok_or("there is no rule named root")?;
        if let Some((name, _)) = self.names.iter().find(|(_, rule)| self.bodies[**rule].is_none()) {
            return Err(format!("the rule {name} is used and not defined"));
        }
        Ok(Rules { bodies: self.bodies.into_iter().flatten().collect(), root })
    }

    fn choice(&mut self, depth: usize) -> Result<Expr, String> {
        if depth > bounds::MAX_GROUPS {
            return Err(self.error(&format!("groups are nested more than {} levels deep", bounds::MAX_GROUPS)));
        }
        let mut options = vec![self.sequence(depth)?];
        while self.take("|") {
            options.push(self.sequence(depth)?);
        }
        Ok(if options.len() == 1 { options.remove(0) } else { Expr::Choice(options) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Expr, String> {
        let mut parts = Vec::new();
        loop {
            self.blanks();
            let part = match self.rest.chars().next() {
                None | Some('|' | ')') => break,
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.take(".");
                    Expr::Class("(?s:.)".into())
                }
                Some('(') => {
                    self.take("(");
                    if self.rest.starts_with(['?', '=']) {
                        return Err(self.error("look-ahead is not supported"));
                    }
                    let group = self.choice(depth + 1)?;
                    if !self.take(")") {
                        return Err(self.error("expected )"));
                    }
                    group
                }
                Some(c) => {
                    let (rest, line) = (self.rest, self.line);
                    let Some(name) = self.name() else { return Err(self.error(&format!("unexpected {c:?}"))) };
                    self.blanks();
                    if self.rest.starts_with("::=") {
                        // The next rule.
                        (self.rest, self.line) = (rest, line);
                        break;
                    }
                    if self.rest.starts_with('(') && name == "TagDispatch" {
                        return Err(self.error("TagDispatch is not supported; use structural_tag"));
                    }
                    Expr::Rule(self.rule(name)?)
                }
            };
            parts.push(self.repeats(part)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Sequence(parts) })
    }

    fn repeats(&mut self, mut node: Expr) -> Result<Expr, String> {
        let mut operators = 0;
        loop {
            let (min, max) = match self.rest.chars().next() {
                Some('?') => (0, Some(1)),
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('{') => {
                    let Some((range, rest)) = self.rest[1..].split_once('}') else {
                        return Err(self.error("expected }"));
                    };
                    let bounds = range.split_once(',').map_or((range, range), |(min, max)| (min, max));
                    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&n| n <= MAX_REPEAT);
                    let max = if bounds.1.trim().is_empty() { Some(None) } else { number(bounds.1).map(Some) };
                    let min = if bounds.0.trim().is_empty() { Some(0) } else { number(bounds.0) };
                    let (Some(min), Some(max)) = (min, max) else {
                        return Err(self.error(&format!("{{{range}}}: expected numbers up to {MAX_REPEAT}")));
                    };
                    if max.is_some_and(|max| max < min) {
                        return Err(self.error(&format!("{{{range}}}: the second number is the smaller one")));
                    }
                    self.rest = rest;
                    node = Expr::Repeat(Box::new(node), min, max);
                    continue;
                }
                _ => return Ok(node),
            };
            operators += 1;
            if operators > bounds::MAX_GROUPS {
                return Err(self.error("too many repetitions of one part"));
            }
            self.rest = &self.rest[1..];
            node = Expr::Repeat(Box::new(node), min, max);
        }
    }

    fn literal(&mut self) -> Result<Expr, String> {
        self.take("\"");
        let mut text = String::new();
        loop {
            match self.character()? {
                ('"', false) => return Ok(Expr::Literal(text)),
                (c, _) => text.push(c),
            }
        }
    }

    fn class(&mut self) -> Result<Expr, String> {
        self.take("[");
        let negated = self.take("^");
        let mut ranges = String::new();
        loop {
            let first = match self.character()? {
                (']', false) => break,
                (c, _) => c,
            };
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if is_range {
                self.take("-");
                self.character()?.0
            } else {
                first
            };
            if last < first {
                return Err(self.error(&format!("[{first}-{last}] is the wrong way round")));
            }
            ranges += &format!("\\x{{{:x}}}-\\x{{{:x}}}", first as u32, last as u32);
        }
        match (ranges.is_empty(), negated) {
            (true, true) => Ok(Expr::Class("(?s:.)".into())),
            (true, false) => Err(self.error("[] matches nothing")),
            (false, true) => Ok(Expr::Class(format!("[^{ranges}]"))),
            (false, false) => Ok(Expr::Class(format!("[{ranges}]"))),
        }
    }

    /// The next character of a literal or class, and whether it was escaped.
    fn character(&mut self) -> Result<(char, bool), String> {
        let mut chars = self.rest.chars();
        let c =
            chars.next().filter(|&c| c != '\n').ok_or_else(|| self.error("the line ends within quotes or brackets"))?;
        self.rest = chars.as_str();
        if c != '\\' {
            return Ok((c, false));
        }
        let kind = chars.next().ok_or_else(|| self.error("the text ends after a backslash"))?;
        self.rest = chars.as_str();
        let digits = match kind {
            'n' => return Ok(('\n', true)),
            'r' => return Ok(('\r', true)),
            't' => return Ok(('\t', true)),
            'f' => return Ok(('\x0c', true)),
            'v' => return Ok(('\x0b', true)),
            'b' => return Ok(('\x08', true)),
            'a' => return Ok(('\x07', true)),
            '0' => return Ok(('\0', true)),
            'e' => return Ok(('\x1b', true)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c if c.is_ascii_punctuation() => return Ok((c, true)),
            c => return Err(self.error(&format!("the escape \\{c} is not known"))),
        };
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let c =
            code.ok_or_else(|| self.error(&format!("\\{kind} wants the {digits} hexadecimal digits of a character")))?;
        self.rest = &self.rest[digits..];
        Ok((c, true))
    }

    fn name(&mut self) -> Option<&'a str> {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let end = self.rest.find(|c| !is_letter(c)).unwrap_or(self.rest.len());
        let starts = self.rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let (name, rest) = self.rest.split_at(end);
        if starts {
            self.rest = rest;
        }
        starts.then_some(name)
    }

    fn rule(&mut self, name: &'a str) -> Result<usize, String> {
        if let Some(&rule) = self.names.get(name) {
            return Ok(rule);
        }
        if self.bodies.len() == MAX_RULES {
            return Err(format!("there are more than {MAX_RULES} rules"));
        }
        self.names.insert(name, self.bodies.len());
        self.bodies.push(None);
        Ok(self.bodies.len() - 1)
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn blanks(&mut self) {
        loop {
            let rest = self.rest.trim_start();
            self.line += self.rest[..self.rest.len() - rest.len()].matches('\n').count();
            self.rest = rest;
            if !rest.starts_with('#') {
                return;
            }
            self.rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        }
    }

    fn error(&self, what: &str) -> String {
        format!("line {}: {what}", self.line)
    }
}

/// Which rules lead to no recursion.
fn regular_rules(bodies: &[Expr]) -> Result<Vec<bool>, String> {
    #[derive(Clone, Copy)]
    enum Mark {
        New,
        Open,
        Done(bool),
    }
    fn visit(rule: usize, bodies: &[Expr], marks: &mut [Mark], chain: usize) -> Result<bool, String> {
        if chain > MAX_CHAIN {
            return Err(format!("more than {MAX_CHAIN} rules refer to one another in a chain"));
        }
        match marks[rule] {
            Mark::Done(regular) => return Ok(regular),
            Mark::Open => return Ok(false),
            Mark::New => {}
        }
        marks[rule] = Mark::Open;
        let mut regular = true;
        let mut todo = vec![&bodies[rule]];
        while let Some(node) = todo.pop() {
            match node {
                Expr::Literal(_) | Expr::Class(_) => {}
                Expr::Rule(other) => regular &= visit(*other, bodies, marks, chain + 1)?,
                Expr::Sequence(parts) | Expr::Choice(parts) => todo.extend(parts),
                Expr::Repeat(part, ..) => todo.push(part),
            }
        }
        marks[rule] = Mark::Done(regular);
        Ok(regular)
    }
    let mut marks = vec![Mark::New; bodies.len()];
    (0..bodies.len()).map(|rule| visit(rule, bodies, &mut marks, 0)).collect()
}

struct EbnfWriter<'a> {
    bodies: &'a [Expr],
    regular: Vec<bool>,
    /// What rules are called that have been written, or are being written.
    names: Vec<Option<String>>,
    /// What regular rules are called as terminals, and whether they match the empty text.
    terminals: Vec<Option<(String, bool)>>,
    lark: Lark,
}

impl<'a> EbnfWriter<'a> {
    /// A rule by its name, for use in other rules.
    fn named_rule(&mut self, rule: usize) -> Result<String, String> {
        if let Some(name) = &self.names[rule] {
            return Ok(name.clone());
        }
        let body: &'a Expr = &self.bodies[rule];
        let name = if self.regular[rule] {
            self.lexeme(body)
        } else {
            let name = self.lark.forward();
            self.names[rule] = Some(name.clone());
            let body = self.rule_body(body)?;
            self.lark.define_forward(&name, &body);
            name
        };
        self.names[rule] = Some(name.clone());
        Ok(name)
    }

    fn rule_body(&mut self, node: &Expr) -> Result<String, String> {
        if self.is_regular(node) {
            return Ok(self.lexeme(node));
        }
        match node {
            Expr::Literal(_) | Expr::Class(_) => Ok(self.lexeme(node)),
            Expr::Rule(rule) => self.named_rule(*rule),
            Expr::Sequence(parts) => {
                let mut out = Vec::new();
                let mut rest = &parts[..];
                while let Some(first) = rest.first() {
                    let run = rest.iter().take_while(|part| self.is_regular(part)).count();
                    out.push(if run == 0 { self.rule_body(first)? } else { self.run(&rest[..run]) });
                    rest = &rest[run.max(1)..];
                }
                Ok(out.join(" "))
            }
            Expr::Choice(options) => {
                let options: Result<Vec<_>, _> = options.iter().map(|option| self.rule_body(option)).collect();
                Ok(self.lark.rule(&options?.join(" | ")))
            }
            Expr::Repeat(part, min, max) => {
                if max.unwrap_or(*min) > MAX_RULE_REPEAT {
                    return Err(format!("a recursive part is repeated more than {MAX_RULE_REPEAT} times"));
                }
                let body = self.rule_body(part)?;
                let part = self.lark.rule(&body);
                Ok(repeat(&part, *min as usize, max.map(|max| max as usize)))
            }
        }
    }

    /// Adjacent regular parts as one terminal.
    fn run(&mut self, parts: &[Expr]) -> String {
        let nullable = parts.iter().all(|part| self.is_nullable(part));
        let parts: Vec<String> = parts.iter().map(|part| self.terminal(part)).collect();
        self.lexeme_of(&parts.join(" "), nullable)
    }

    /// A regular part as one terminal.
    fn lexeme(&mut self, node: &Expr) -> String {
        let nullable = self.is_nullable(node);
        let body = self.terminal(node);
        self.lexeme_of(&body, nullable)
    }

    /// llguidance wants lexemes that are not empty.
    fn lexeme_of(&mut self, body: &str, nullable: bool) -> String {
        if body == literal("") || body.is_empty() {
            return literal("");
        }
        let name = self.lark.terminal(body);
        if nullable { format!("{}?", self.lark.terminal(&format!("{name} & {}", regex("(?s:.+)")))) } else { name }
    }

    /// A regular part as an atom of a terminal's body.
    fn terminal(&mut self, node: &Expr) -> String {
        match node {
            Expr::Literal(text) => literal(text),
            Expr::Class(class) => regex(class),
            Expr::Rule(rule) => self.regular_rule(*rule).0,
            Expr::Sequence(parts) if parts.is_empty() => literal(""),
            Expr::Sequence(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.terminal(part)).collect();
                self.lark.terminal(&parts.join(" "))
            }
            Expr::Choice(options) => {
                let options: Vec<String> = options.iter().map(|option| self.terminal(option)).collect();
                self.lark.terminal(&options.join(" | "))
            }
            Expr::Repeat(part, min, max) => {
                let part = self.terminal(part);
                self.lark.terminal(&repeat(&part, *min as usize, max.map(|max| max as usize)))
            }
        }
    }

    fn regular_rule(&mut self, rule: usize) -> (String, bool) {
        if let Some(known) = &self.terminals[rule] {
            return known.clone();
        }
        let body: &'a Expr = &self.bodies[rule];
        let (text, nullable) = (self.terminal(body), self.is_nullable(body));
        let known = (self.lark.terminal(&text), nullable);
        self.terminals[rule] = Some(known.clone());
        known
    }

    fn is_regular(&self, node: &Expr) -> bool {
        match node {
            Expr::Literal(_) | Expr::Class(_) => true,
            Expr::Rule(rule) => self.regular[*rule],
            Expr::Sequence(parts) | Expr::Choice(parts) => parts.iter().all(|part| self.is_regular(part)),
            Expr::Repeat(part, ..) => self.is_regular(part),
        }
    }

    /// Whether a regular part matches the empty text.
    fn is_nullable(&mut self, node: &Expr) -> bool {
        match node {
            Expr::Literal(text) => text.is_empty(),
            Expr::Class(_) => false,
            Expr::Rule(rule) => self.regular_rule(*rule).1,
            Expr::Sequence(parts) => parts.iter().all(|part| self.is_nullable(part)),
            Expr::Choice(options) => options.iter().any(|option| self.is_nullable(option)),
            Expr::Repeat(part, min, _) => *min == 0 || self.is_nullable(part),
        }
    }
}
