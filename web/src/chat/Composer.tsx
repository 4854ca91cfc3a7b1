// Where one writes. Enter sends, Shift+Enter makes a line; text files can be attached, dropped and pasted.
import { useEffect, useRef, useState } from "preact/hooks";

import { wordsOf } from "./body";
import { ContextMeter } from "./ContextMeter";
import { readText } from "./textFiles";
import type { UserMessage } from "./types";
import { useTokenCount } from "./useTokenCount";

interface Props {
  draft: UserMessage;
  busy: boolean;
  /** Tokens of the conversation so far, and of the model's context. */
  used: number;
  contextLength: number | undefined;
  /** Changes when another conversation is open. */
  conversation: string;
  onDraft: (draft: UserMessage) => void;
  onSend: () => void;
  onStop: () => void;
}

export function Composer({ draft, busy, used, contextLength, conversation, onDraft, onSend, onStop }: Props) {
  const [failure, setFailure] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const files = draft.files ?? [];
  const isEmpty = wordsOf(draft).trim() === "";
  const tokens = useTokenCount(wordsOf(draft));
  useEffect(() => {
    // On a phone the keyboard would cover the page before one has seen it.
    if (matchMedia("(hover: hover) and (pointer: fine)").matches) field.current?.focus({ preventScroll: true });
  }, [conversation]);
  const send = () => {
    if (busy || isEmpty) return;
    setFailure("");
    onSend();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  const attach = async (chosen: FileList | undefined | null) => {
    if (!chosen || chosen.length === 0) return;
    const read = await Promise.allSettled(Array.from(chosen, readText));
    const texts = read.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
    const wrongs = read.flatMap((each) => (each.status === "rejected" ? [(each.reason as Error).message] : []));
    setFailure(wrongs.join(" "));
    if (texts.length > 0) onDraft({ ...draft, files: [...files, ...texts] });
    field.current?.focus();
  };
  const onDrop = (event: DragEvent) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    void attach(event.dataTransfer.files);
  };
  const onPaste = (event: ClipboardEvent) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    void attach(event.clipboardData.files);
  };
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); send(); }} onDrop={onDrop}
      onDragOver={(event) => event.preventDefault()}>
      {files.length > 0 && (
        <ul class="files" aria-label="Attached files">
          {files.map(({ name }, index) => (
            <li key={index} class="file">
              {name}
              <button type="button" class="plain" aria-label={`Remove ${name}`}
                onClick={() => onDraft({ ...draft, files: files.filter((_, i) => i !== index) })}>✕</button>
            </li>
          ))}
        </ul>
      )}
      {failure && <p class="failure" role="alert">{failure}</p>}
      <button type="button" class="attach" aria-label="Attach text files" title="Attach text files"
        onClick={() => picker.current?.click()}>+</button>
      <input ref={picker} type="file" multiple hidden aria-hidden="true" tabIndex={-1}
        onChange={(event) => { void attach(event.currentTarget.files); event.currentTarget.value = ""; }} />
      <textarea ref={field} aria-label="Message" placeholder="Ask for code" rows={Math.min(10, draft.content.split("\n").length)}
        value={draft.content} onInput={(event) => onDraft({ ...draft, content: event.currentTarget.value })}
        onKeyDown={onKeyDown} onPaste={onPaste} />
      {busy
        ? <button type="button" class="primary" onClick={onStop}>Stop</button>
        : <button type="submit" class="primary" disabled={isEmpty}>Send</button>}
      <ContextMeter draft={tokens} used={used} contextLength={contextLength} />
    </form>
  );
}
