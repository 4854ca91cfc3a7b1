// The conversations of this browser: found, opened, renamed, saved to a file and read from one.
import { useRef, useState } from "preact/hooks";

import { mentions } from "./conversation";
import { fromFile, toFile } from "./store";
import { download } from "./textFiles";
import type { Conversation } from "./types";

interface Props {
  conversations: readonly Conversation[];
  current: string;
  onOpen: (id: string) => void;
  onNew: () => void;
  onRename: (id: string, title: string) => void;
  onRemove: (id: string) => void;
  onAdd: (conversations: readonly Conversation[]) => void;
}

export function History({ conversations, current, onOpen, onNew, onRename, onRemove, onAdd }: Props) {
  const [search, setSearch] = useState("");
  const [renamed, setRenamed] = useState("");
  const [failure, setFailure] = useState("");
  const picker = useRef<HTMLInputElement>(null);
  const kept = conversations.filter((each) => each.messages.length > 0);
  const shown = search.trim() === "" ? kept : kept.filter((each) => mentions(each, search));
  const importFile = async (file: File | undefined) => {
    if (!file) return;
    try {
      onAdd(fromFile(await file.text()));
      setFailure("");
    } catch (error) {
      setFailure(`${file.name} is no file of conversations: ${(error as Error).message}`);
    }
  };
  return (
    <nav class="history" aria-label="Conversations">
      <button type="button" onClick={onNew}>New conversation</button>
      {kept.length > 1 && (
        <input type="search" aria-label="Search conversations" placeholder="Search" value={search}
          onInput={(event) => setSearch(event.currentTarget.value)} />
      )}
      <ul>
        {shown.map((each) => (
          <li key={each.id}>
            {each.id === renamed
              ? <TitleField title={each.title} onEnd={(title) => { setRenamed(""); if (title) onRename(each.id, title); }} />
              : (
                <>
                  <button type="button" class="plain title" aria-current={each.id === current ? "true" : undefined}
                    onClick={() => onOpen(each.id)}>{each.title}</button>
                  <button type="button" class="plain" aria-label={`Rename ${each.title}`} title="Rename" onClick={() => setRenamed(each.id)}>✎</button>
                  <button type="button" class="plain" aria-label={`Delete ${each.title}`} title="Delete" onClick={() => onRemove(each.id)}>✕</button>
                </>
              )}
          </li>
        ))}
      </ul>
      {kept.length > 0 && shown.length === 0 && <p class="quiet" role="status">Nothing found.</p>}
      {failure && <p class="failure" role="alert">{failure}</p>}
      <div class="row">
        <button type="button" class="plain" disabled={kept.length === 0}
          onClick={() => download("quern-conversations.json", toFile(kept))}>Export</button>
        <button type="button" class="plain" onClick={() => picker.current?.click()}>Import</button>
        <input ref={picker} type="file" accept=".json,application/json" hidden aria-hidden="true" tabIndex={-1}
          onChange={(event) => { void importFile(event.currentTarget.files?.[0]); event.currentTarget.value = ""; }} />
      </div>
      <p class="quiet">Kept in this browser only.</p>
    </nav>
  );
}

/** Enter keeps the new title, Escape the old one. */
function TitleField({ title, onEnd }: { title: string; onEnd: (title: string) => void }) {
  const [typed, setTyped] = useState(title);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.isComposing) onEnd(typed.trim());
    if (event.key !== "Escape") return;
    // In a sheet this key would close the sheet too.
    event.preventDefault();
    event.stopPropagation();
    onEnd("");
  };
  return (
    <input class="rename" aria-label="Title" value={typed} ref={(field) => field?.focus()} onKeyDown={onKeyDown}
      onInput={(event) => setTyped(event.currentTarget.value)} onBlur={() => onEnd(typed.trim())} />
  );
}
