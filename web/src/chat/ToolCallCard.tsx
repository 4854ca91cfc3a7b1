// A call the model wrote, and its result: typed here, or the example's.
import { useState } from "preact/hooks";

import { CopyButton } from "../shell/CopyButton";
import { isExample, runExample } from "./examples";
import { coloured } from "./markdown";
import { readArguments, type Block } from "./toolArguments";
import type { ToolCall } from "./types";

interface Props {
  call: ToolCall;
  /** The result, if there is one. */
  result: string | undefined;
  /** Whether a result is wanted now. */
  open: boolean;
  onResult: (result: string) => void;
}

export function ToolCallCard({ call, result, open, onResult }: Props) {
  const [typed, setTyped] = useState("");
  const { json, blocks } = readArguments(call.arguments);
  return (
    <section class="call" aria-label={`Call of ${call.name}`}>
      <p class="call-name"><span class="quiet">calls</span> <code>{call.name}</code></p>
      {json && <pre tabIndex={0}><code dangerouslySetInnerHTML={{ __html: coloured(json, "json") }} /></pre>}
      {blocks.map((block) => <CodeBlock key={block.name} {...block} />)}
      {result !== undefined && <div class="call-result"><span class="quiet">result</span><pre tabIndex={0}><code>{result}</code></pre></div>}
      {open && result === undefined && (
        <form class="call-answer" onSubmit={(event) => { event.preventDefault(); onResult(typed); }}>
          <label>
            Result of {call.name}
            <textarea class="mono" rows={2} value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
          </label>
          <div class="row">
            <button type="submit">Use this result</button>
            {isExample(call.name) && (
              <button type="button" onClick={async () => onResult(await runExample(call.name, call.arguments))}>
                Let the example answer
              </button>
            )}
          </div>
        </form>
      )}
    </section>
  );
}

function CodeBlock({ name, text, language }: Block) {
  return (
    <div class="code">
      <div class="code-head"><span>{name}</span><CopyButton text={text} /></div>
      <pre tabIndex={0}><code dangerouslySetInnerHTML={{ __html: coloured(text, language) }} /></pre>
    </div>
  );
}
