// Asks for the API key when the server has refused a request for want of one, or with the one that was given.
import { useEffect, useRef, useState } from "preact/hooks";

import { giveKey, onKeyWanted } from "../api/client";

export function KeyDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState("");
  const [wrong, setWrong] = useState(false);
  useEffect(() => onKeyWanted((refused) => {
    setWrong(refused);
    if (dialog.current && !dialog.current.open) dialog.current.showModal();
  }), []);
  const submit = (event: Event) => {
    event.preventDefault();
    giveKey(typed.trim());
    setTyped("");
    dialog.current?.close();
  };
  return (
    <dialog ref={dialog} class="key" aria-labelledby="key-title">
      <form onSubmit={submit}>
        <h2 id="key-title">This server asks for a key</h2>
        <label>
          API key
          <input type="password" autocomplete="off" required value={typed} aria-invalid={wrong}
            aria-describedby={wrong ? "key-wrong" : undefined} onInput={(event) => setTyped(event.currentTarget.value)} />
        </label>
        {wrong && <p id="key-wrong" class="failure" role="alert">The server refused this key. Is it complete, and of this server?</p>}
        <p class="quiet">Kept in this tab until it is closed, and sent to this server only.</p>
        <div class="row end">
          <button type="button" onClick={() => dialog.current?.close()}>Not now</button>
          <button type="submit" class="primary">Use it</button>
        </div>
      </form>
    </dialog>
  );
}
