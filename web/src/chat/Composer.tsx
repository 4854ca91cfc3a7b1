// Where one writes. Enter sends, Shift+Enter makes a line.
import { useState } from "preact/hooks";

import { useTokenCount } from "./useTokenCount";

interface Props {
  busy: boolean;
  onSend: (text: string) => void;
  onStop: () => void;
}

export function Composer({ busy, onSend, onStop }: Props) {
  const [text, setText] = useState("");
  const send = () => {
    if (busy || text.trim() === "") return;
    onSend(text);
    setText("");
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  const tokens = useTokenCount(text);
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); send(); }}>
      <textarea aria-label="Message" placeholder="Ask for code" rows={Math.min(10, text.split("\n").length)} value={text}
        onInput={(event) => setText(event.currentTarget.value)} onKeyDown={onKeyDown} />
      {busy
        ? <button type="button" class="primary" onClick={onStop}>Stop</button>
        : <button type="submit" class="primary" disabled={text.trim() === ""}>Send</button>}
      <p class="quiet count">{tokens !== undefined && `${tokens} ${tokens === 1 ? "token" : "tokens"}`}</p>
    </form>
  );
}
