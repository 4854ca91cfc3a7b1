// Fill in the middle: code before, code after, and what the model writes between.
import { useEffect, useRef, useState } from "preact/hooks";

import { fillBody } from "./body";
import { CodeDialog } from "./CodeDialog";
import { StatsLine } from "./StatsLine";
import { ask } from "./stream";
import type { AssistantMessage, Settings } from "./types";

const BEFORE = "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        ";
const AFTER = "\n    return a\n";
const MAX_TOKENS = 256;

interface Props {
  settings: Settings;
}

export function FillView({ settings }: Props) {
  const [before, setBefore] = useState(BEFORE);
  const [after, setAfter] = useState(AFTER);
  const [answer, setAnswer] = useState<AssistantMessage>();
  const [busy, setBusy] = useState(false);
  const [showsCode, setShowsCode] = useState(false);
  const control = useRef<AbortController | undefined>(undefined);
  useEffect(() => () => control.current?.abort(), []);
  const body = fillBody(settings, before, after, MAX_TOKENS);
  const run = async () => {
    control.current = new AbortController();
    setBusy(true);
    setAnswer(undefined);
    setAnswer(await ask("completions", body, control.current.signal, setAnswer));
    setBusy(false);
  };
  return (
    <section class="fill" aria-label="Fill in the middle">
      <label>
        Before
        <textarea class="mono" rows={7} spellcheck={false} value={before} onInput={(event) => setBefore(event.currentTarget.value)} />
      </label>
      <div class="middle" aria-live="polite" aria-busy={busy}>
        <p class="field-name">Between</p>
        <pre tabIndex={0}><code>{answer?.content ?? ""}</code></pre>
        {answer?.error && <p class="failure" role="alert">{answer.error}</p>}
        {answer && <StatsLine message={answer} />}
      </div>
      <label>
        After
        <textarea class="mono" rows={5} spellcheck={false} value={after} onInput={(event) => setAfter(event.currentTarget.value)} />
      </label>
      <div class="row">
        {busy
          ? <button type="button" class="primary" onClick={() => control.current?.abort()}>Stop</button>
          : <button type="button" class="primary" onClick={run}>Fill in</button>}
        <button type="button" onClick={() => setShowsCode(true)}>As code</button>
      </div>
      {showsCode && <CodeDialog endpoint="completions" body={body} onClose={() => setShowsCode(false)} />}
    </section>
  );
}
