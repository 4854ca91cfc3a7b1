// The tools that a model may call, as JSON, checked while it is typed.
import { parseTools } from "./body";
import { EXAMPLES } from "./examples";

interface Props {
  value: string;
  onChange: (value: string) => void;
}

export function ToolsField({ value, onChange }: Props) {
  const { tools, error } = parseTools(value);
  return (
    <>
      <label>
        Tools (JSON)
        <textarea class="mono" rows={6} spellcheck={false} value={value} aria-invalid={error !== undefined}
          onInput={(event) => onChange(event.currentTarget.value)} />
      </label>
      {error
        ? <p class="failure" role="alert">Not JSON: {error}</p>
        : <p class="quiet">{tools.length === 0 ? "No tools." : `${tools.length} ${tools.length === 1 ? "tool" : "tools"}.`}</p>}
      <div class="row">
        <button type="button" onClick={() => onChange(JSON.stringify(EXAMPLES, null, 2))}>Use the examples</button>
        {value !== "" && <button type="button" onClick={() => onChange("")}>No tools</button>}
      </div>
    </>
  );
}
