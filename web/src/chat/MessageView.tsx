// One turn: a user's words and files, or a model's answer, with its calls and their results. Both can be edited.
import { useState } from "preact/hooks";

import { CopyButton } from "../shell/CopyButton";
import { Markdown } from "./Markdown";
import { StatsLine } from "./StatsLine";
import { ToolCallCard } from "./ToolCallCard";
import type { AssistantMessage, UserMessage } from "./types";

interface UserProps {
  message: UserMessage;
  busy: boolean;
  onEdit: (message: UserMessage) => void;
}

export function UserTurn({ message, busy, onEdit }: UserProps) {
  const [edits, setEdits] = useState(false);
  return (
    <article class="turn user" aria-label="You">
      {message.files?.map(({ name, text }) => (
        <details key={name} class="file">
          <summary>{name}</summary>
          <pre tabIndex={0}><code>{text}</code></pre>
        </details>
      ))}
      {edits
        ? (
          <Editor label="Your message" action="Send again" text={message.content} busy={busy} onCancel={() => setEdits(false)}
            onDone={(content) => { setEdits(false); onEdit({ ...message, content }); }} />
        )
        : (
          <>
            {message.content && <p class="words">{message.content}</p>}
            <button type="button" class="plain" disabled={busy} onClick={() => setEdits(true)}>Edit</button>
          </>
        )}
    </article>
  );
}

interface EditorProps {
  label: string;
  action: string;
  text: string;
  busy: boolean;
  onCancel: () => void;
  onDone: (text: string) => void;
}

function Editor({ label, action, text, busy, onCancel, onDone }: EditorProps) {
  const [draft, setDraft] = useState(text);
  return (
    <form class="editor" onSubmit={(event) => { event.preventDefault(); onDone(draft); }}>
      <textarea aria-label={label} rows={Math.min(20, Math.max(4, draft.split("\n").length))} value={draft}
        ref={(field) => { if (field && !field.contains(document.activeElement)) field.focus(); }}
        onInput={(event) => setDraft(event.currentTarget.value)} />
      <div class="row end">
        <button type="button" onClick={onCancel}>Cancel</button>
        <button type="submit" class="primary" disabled={draft.trim() === "" || busy}>{action}</button>
      </div>
    </form>
  );
}

interface AssistantProps {
  message: AssistantMessage;
  /** Results of its calls, by id. */
  results: ReadonlyMap<string, string>;
  /** Whether it is the last message: its calls wait for results, and another answer may stand in its place. */
  last: boolean;
  streaming: boolean;
  /** What can be done with it once it is whole. */
  actions?: AnswerActions;
}

export interface AnswerActions {
  busy: boolean;
  onResult: (callId: string, result: string) => void;
  onRegenerate: () => void;
  onVariant: (variant: number) => void;
  onReword: (content: string) => void;
  onCode: () => void;
}

export function AssistantTurn({ message, results, last, streaming, actions }: AssistantProps) {
  const [edits, setEdits] = useState(false);
  const empty = message.content === "" && message.calls.length === 0;
  return (
    <article class="turn assistant" aria-label="Model" aria-busy={streaming}>
      {edits && actions
        ? (
          <Editor label="The model's answer" action="Keep" text={message.content} busy={actions.busy} onCancel={() => setEdits(false)}
            onDone={(content) => { setEdits(false); actions.onReword(content); }} />
        )
        : message.content && <Markdown text={message.content} />}
      {streaming && empty && <p class="quiet pulse">Reading…</p>}
      {message.calls.map((call) => (
        <ToolCallCard key={call.id} call={call} result={results.get(call.id)} open={last && !streaming}
          onResult={(result) => actions?.onResult(call.id, result)} />
      ))}
      {message.error && <p class="failure" role="alert">{message.error}</p>}
      <StatsLine message={message} />
      {actions && !edits && (
        <div class="row actions">
          {message.variants && <Variants message={message} last={last} actions={actions} />}
          <button type="button" class="plain" disabled={actions.busy} onClick={actions.onRegenerate}>
            {message.error ? "Try again" : "Regenerate"}
          </button>
          {message.content && <CopyButton text={message.content} label="Copy answer" />}
          {message.content && <button type="button" class="plain" disabled={actions.busy} onClick={() => setEdits(true)}>Edit answer</button>}
          <button type="button" class="plain" onClick={actions.onCode}>Its request</button>
        </div>
      )}
    </article>
  );
}

/** Which of several answers to the same request this is. Those after it belong to this one alone. */
function Variants({ message: { variants = [], variant = 0 }, last, actions }: { message: AssistantMessage; last: boolean; actions: AnswerActions }) {
  const go = (to: number) => () => actions.onVariant(to);
  return (
    <span class="row variants" role="group" aria-label="Answers to this message">
      {last && <button type="button" class="plain" aria-label="Answer before" disabled={variant === 0 || actions.busy} onClick={go(variant - 1)}>‹</button>}
      <span class="quiet">{`${variant + 1} of ${variants.length}`}</span>
      {last && <button type="button" class="plain" aria-label="Next answer" disabled={variant + 1 === variants.length || actions.busy} onClick={go(variant + 1)}>›</button>}
    </span>
  );
}
