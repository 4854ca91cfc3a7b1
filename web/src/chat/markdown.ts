// Markdown to HTML that can do no harm: a model's output is a stranger's text.
import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { Marked } from "marked";

const LANGUAGES = { bash, cpp, css, diff, go, java, javascript, json, python, rust, sql, typescript, xml, yaml };
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

/** Longest code that is coloured: the highlighter starts over with every piece that arrives. */
const MOST_COLOURED = 20_000;

const TAGS = [
  "a", "b", "blockquote", "br", "button", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i",
  "li", "ol", "p", "pre", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const ATTRIBUTES = ["align", "class", "href", "rel", "start", "tabindex", "target", "type"];

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** The name under which a language, one of its other names or an ending of its files is known here, or nothing. */
export function languageOf(name: string): string {
  return hljs.getLanguage(name) ? name.toLowerCase() : "";
}

/** Code as HTML, coloured where the language is known. */
export function coloured(code: string, language: string): string {
  const known = hljs.getLanguage(language) && code.length <= MOST_COLOURED;
  return known ? hljs.highlight(code, { language, ignoreIllegals: true }).value : escaped(code);
}

const marked = new Marked({
  gfm: true,
  breaks: false,
  renderer: {
    code({ text, lang }) {
      const language = (lang ?? "").trim().split(/\s/)[0] ?? "";
      return `<div class="code"><div class="code-head"><span>${escaped(language || "text")}</span>` +
        `<button type="button" class="copy">Copy</button></div>` +
        `<pre tabindex="0"><code>${coloured(text, language)}</code></pre></div>`;
    },
    // Tags in the text are shown, not obeyed.
    html({ text }) {
      return escaped(text);
    },
    // A picture would be a request to someone else.
    image({ href, text }) {
      return `<a href="${escaped(href)}">${escaped(text || href)}</a>`;
    },
  },
});

const purify = DOMPurify();
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

export function toHtml(text: string): string {
  const html = marked.parse(text, { async: false });
  return purify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    // The expression is for every attribute that is not known to be none of its business.
    ADD_URI_SAFE_ATTR: ["align", "start", "tabindex", "type"],
  });
}
