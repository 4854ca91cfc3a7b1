// One turn: a user's words, which can be edited, or a model's, with its calls and their results.
import { useState } from "preact/hooks";

import { Markdown } from "./Markdown";
import { StatsLine } from "./StatsLine";
import { ToolCallCard } from "./ToolCallCard";
import type { AssistantMessage, UserMessage } from "./types";

interface UserProps {
  message: UserMessage;
  busy: boolean;
  onEdit: (content: string) => void;
}

export function UserTurn({ message, busy, onEdit }: UserProps) {
  const [draft, setDraft] = useState<string>();
  if (draft === undefined) {
    return (
      <article class="turn user" aria-label="You">
        <p class="words">{message.content}</p>
        <button type="button" class="plain" disabled={busy} onClick={() => setDraft(message.content)}>Edit</button>
      </article>
    );
  }
  const submit = (event: Event) => {
    event.preventDefault();
    setDraft(undefined);
    onEdit(draft);
  };
  return (
    <article class="turn user" aria-label="You">
      <form onSubmit={submit}>
        <textarea aria-label="Your message" rows={4} value={draft} autofocus
          onInput={(event) => setDraft(event.currentTarget.value)} />
        <div class="row end">
          <button type="button" onClick={() => setDraft(undefined)}>Cancel</button>
          <button type="submit" class="primary" disabled={draft.trim() === "" || busy}>Send again</button>
        </div>
      </form>
    </article>
  );
}

interface AssistantProps {
  message: AssistantMessage;
  /** Results of its calls, by id. */
  results: ReadonlyMap<string, string>;
  /** Whether it is the last turn and its calls wait for results. */
  last: boolean;
  streaming: boolean;
  onResult: (callId: string, result: string) => void;
  onRetry: () => void;
}

export function AssistantTurn({ message, results, last, streaming, onResult, onRetry }: AssistantProps) {
  const empty = message.content === "" && message.calls.length === 0;
  return (
    <article class="turn assistant" aria-label="Model" aria-busy={streaming}>
      {message.content && <Markdown text={message.content} />}
      {streaming && empty && <p class="quiet pulse">Reading…</p>}
      {message.calls.map((call) => (
        <ToolCallCard key={call.id} call={call} result={results.get(call.id)} open={last && !streaming}
          onResult={(result) => onResult(call.id, result)} />
      ))}
      {message.error && <p class="failure" role="alert">{message.error}</p>}
      <div class="row">
        <StatsLine message={message} />
        {last && !streaming && <button type="button" class="plain" onClick={onRetry}>Try again</button>}
      </div>
    </article>
  );
}
