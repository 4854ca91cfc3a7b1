//! [`check`]: a template's source, held to what parsing and compiling it may cost; [`without_generation_tags`].
//!
//! Parser and compiler recurse: into blocks, brackets and prefixes, and into every operator of a chain, whose tree leans
//! to one side. Sources that would need a deep stack are refused before they are parsed.

/// Longest template source.
pub(super) const MAX_SOURCE_BYTES: usize = 1 << 20;

/// Deepest nesting of blocks and brackets.
const MAX_NESTING: usize = 200;

/// Most operators, calls and attributes in one tag: the largest tags that people write have some fifty.
const MAX_OPERATORS: usize = 1000;

/// Most `elif` in a source: each is a branch of the one before it.
const MAX_BRANCHES: usize = 500;

/// Words that are operators.
const OPERATORS: &[&str] = &["and", "or", "not", "is", "in", "if", "else"];

/// Refuse a `source` that is too long, or nests or chains absurdly.
///
/// # Errors
/// What is too much, and its limit.
pub(super) fn check(source: &str) -> Result<(), String> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(format!("{} bytes; at most {MAX_SOURCE_BYTES} are read", source.len()));
    }
    let mut deepest = 0usize;
    let mut depth = 0usize;
    for c in source.bytes() {
        match c {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    let opened = source.matches("{% if").chain(source.matches("{%- if")).count().min(source.matches("endif").count());
    let chained = longest_run(source);
    if deepest > MAX_NESTING || chained > MAX_NESTING || opened > 10_000 {
        return Err(format!("it nests deeper than {MAX_NESTING}"));
    }
    let mut branches = 0;
    for tag in tags(source) {
        let (operators, elif) = count(tag);
        if operators > MAX_OPERATORS {
            return Err(format!("a tag has {operators} operators; at most {MAX_OPERATORS} are allowed"));
        }
        branches += elif;
    }
    match branches > MAX_BRANCHES {
        true => Err(format!("it has {branches} branches (elif); at most {MAX_BRANCHES} are allowed")),
        false => Ok(()),
    }
}

/// Longest run of `not` or unary minus words, each of which the parser recurses into.
fn longest_run(source: &str) -> usize {
    let (mut longest, mut run) = (0, 0);
    for word in source.split_whitespace() {
        let repeated = word == "not" || (!word.is_empty() && word.bytes().all(|b| b == b'-' || b == b'~'));
        run = if repeated { run + word.len().max(1) } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// What stands between `{{` or `{%` and the end of the tag, quoted texts included.
fn tags(source: &str) -> impl Iterator<Item = &str> {
    let mut rest = source;
    std::iter::from_fn(move || {
        loop {
            let open = rest.find('{')?;
            let inside = rest.get(open + 2..).unwrap_or_default();
            match rest.as_bytes().get(open + 1) {
                Some(b'#') => rest = inside.find("#}").map_or("", |end| &inside[end + 2..]),
                Some(b'{' | b'%') => {
                    let (tag, after) = inside.split_at(end_of_tag(inside));
                    rest = after;
                    return Some(tag);
                }
                Some(_) | None => rest = &rest[open + 1..],
            }
        }
    })
}

/// Where a tag ends, outside of quoted texts.
fn end_of_tag(inside: &str) -> usize {
    let mut quote = None;
    let mut bytes = inside.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => drop(bytes.next()),
            (Some(mark), _) if byte == mark => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'}' | b'%') if inside.as_bytes().get(at + 1) == Some(&b'}') => return at,
            (None, _) => {}
        }
    }
    inside.len()
}

/// The operators of a tag, and how often it says `elif`; quoted texts have none.
fn count(tag: &str) -> (usize, usize) {
    let (mut operators, mut branches) = (0, 0);
    let mut rest = tag;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => {
                let mut escaped = false;
                let end = rest[1..].find(|c| {
                    let ends = c == first && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                end.map_or(rest.len(), |end| end + 2)
            }
            _ if first.is_alphanumeric() || first == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                operators += usize::from(OPERATORS.contains(&&rest[..length]));
                branches += usize::from(&rest[..length] == "elif");
                length
            }
            _ => {
                operators += usize::from("+-*/%~<>=!|.([".contains(first));
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    (operators, branches)
}

/// `source` without `{% generation %}` and its end, by which trainers mark what the model wrote: what lies between
/// is rendered as if they were not there.
pub(super) fn without_generation_tags(source: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_counted_by_tag_and_outside_of_texts() {
        let tags: Vec<_> =
            tags("a {{ b.c + 'd}}+' }} {# {{ 1+1 }} #} {%- if x is not none -%} {} {{ '\\'+' ~ \"\" }}").collect();
        assert_eq!(tags, [" b.c + 'd}}+' ", "- if x is not none -", " '\\'+' ~ \"\" "]);
        assert_eq!(tags.iter().map(|tag| count(tag).0).collect::<Vec<_>>(), [2, 5, 1]);
        assert_eq!(count(" elif a.elif or elifs "), (2, 2));
    }

    #[test]
    fn chains_of_every_operator_are_refused_by_their_number() {
        let links = [
            "+1",
            "-1",
            "*1",
            "/1",
            "//1",
            "%1",
            "**1",
            "~1",
            "<1",
            "==1",
            " and 1",
            " or 1",
            " in 1",
            " not in 1",
            " is defined",
            ".a",
            "[0]",
            "()",
            "|upper",
            "|default(1)",
            " if 1 else 1",
        ];
        for link in links {
            let chain = |count: usize| format!("{{{{ 1{} }}}}", link.repeat(count));
            assert_eq!(check(&chain(150)), Ok(()), "{link}");
            assert!(check(&chain(20_000)).is_err(), "{link}");
        }
        let branches = |count| format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(count));
        assert_eq!(check(&branches(500)), Ok(()));
        assert!(check(&branches(501)).unwrap_err().contains("501 branches"));
        // Long texts and long sources are no chains.
        assert_eq!(check(&format!("{{{{ '{}' }}}}", "a.b + c | ".repeat(10_000))), Ok(()));
        assert_eq!(check(&"{{ a.b + c }}".repeat(10_000)), Ok(()));
    }
}
