// The conversations of this browser.
import type { Conversation } from "./types";

interface Props {
  conversations: readonly Conversation[];
  current: string;
  onOpen: (id: string) => void;
  onNew: () => void;
  onRemove: (id: string) => void;
}

export function History({ conversations, current, onOpen, onNew, onRemove }: Props) {
  return (
    <nav class="history" aria-label="Conversations">
      <button type="button" onClick={onNew}>New conversation</button>
      <ul>
        {conversations.filter((each) => each.messages.length > 0).map((each) => (
          <li key={each.id}>
            <button type="button" class="plain title" aria-current={each.id === current ? "true" : undefined}
              onClick={() => onOpen(each.id)}>{each.title}</button>
            <button type="button" class="plain" aria-label={`Delete ${each.title}`} onClick={() => onRemove(each.id)}>✕</button>
          </li>
        ))}
      </ul>
      <p class="quiet">Kept in this browser only.</p>
    </nav>
  );
}
