// JSON that goes with a conversation, checked while it is typed.
import type { ComponentChildren } from "preact";

interface Props {
  label: string;
  value: string;
  rows: number;
  /** Why it is none. */
  error: string | undefined;
  /** What it is, if it is right. */
  summary: string;
  onChange: (value: string) => void;
  children: ComponentChildren;
}

export function JsonField({ label, value, rows, error, summary, onChange, children }: Props) {
  return (
    <>
      <label>
        {label}
        <textarea class="mono" rows={rows} spellcheck={false} value={value} aria-invalid={error !== undefined}
          onInput={(event) => onChange(event.currentTarget.value)} />
      </label>
      {error ? <p class="failure" role="alert">Not JSON: {error}</p> : <p class="quiet">{summary}</p>}
      <div class="row">{children}</div>
    </>
  );
}
