// Text of a model, as HTML made safe in `markdown.ts`.
import { useMemo } from "preact/hooks";

import { copied } from "../shell/CopyButton";
import { toHtml } from "./markdown";

export function Markdown({ text }: { text: string }) {
  const html = useMemo(() => toHtml(text), [text]);
  return <div class="markdown" onClick={copyCode} dangerouslySetInnerHTML={{ __html: html }} />;
}

/** The copy buttons inside the HTML: one listener for all of them. */
async function copyCode(event: MouseEvent): Promise<void> {
  const button = event.target instanceof Element ? event.target.closest("button.copy") : null;
  const code = button?.closest(".code")?.querySelector("code")?.textContent;
  if (!button || code === null || code === undefined) return;
  button.textContent = (await copied(code)) ? "Copied" : "Select and copy";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
