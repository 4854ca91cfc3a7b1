// What goes with every message of a conversation: system prompt, sampling, tools, a schema for answers.
import { parseSchema, parseTools } from "./body";
import { EXAMPLES } from "./examples";
import { JsonField } from "./JsonField";
import { NumberField } from "./NumberField";
import type { Settings } from "./types";

interface Props {
  settings: Settings;
  /** Sampling of a request that leaves it open, by llama.cpp's names. */
  defaults: Record<string, unknown>;
  /** Filling in the middle knows neither a system prompt nor tools. */
  onlySampling: boolean;
  onChange: (settings: Settings) => void;
}

const SCHEMA = {
  type: "object",
  properties: { name: { type: "string" }, city: { type: "string" } },
  required: ["name", "city"],
  additionalProperties: false,
};

export function SettingsPanel({ settings, defaults, onlySampling, onChange }: Props) {
  const set = (field: keyof Settings) => (value: string) => onChange({ ...settings, [field]: value });
  const number = (field: keyof Settings, label: string, step: string, min: string, max?: string, name?: string) => (
    <NumberField label={label} value={settings[field]} step={step} min={min} onChange={set(field)}
      {...(max !== undefined && { max })} byDefault={name === undefined ? undefined : defaults[name]} />
  );
  const greedy = defaults["top_k"] === 1 && settings.topK.trim() === "";
  return (
    <div class="settings">
      {!onlySampling && (
        <label>
          System prompt
          <textarea rows={3} value={settings.system} onInput={(event) => set("system")(event.currentTarget.value)} />
        </label>
      )}
      <div class="numbers">
        {number("temperature", "Temperature", "0.1", "0", "2", "temperature")}
        {number("topP", "Top p", "0.05", "0", "1", "top_p")}
        {number("topK", "Top k", "1", "-1", undefined, "top_k")}
        {number("minP", "Min p", "0.01", "0", "1", "min_p")}
        {number("repetitionPenalty", "Repetition", "0.05", "0", "2", "repeat_penalty")}
        {number("presencePenalty", "Presence", "0.1", "-2", "2", "presence_penalty")}
        {number("frequencyPenalty", "Frequency", "0.1", "-2", "2", "frequency_penalty")}
        {number("maxTokens", "Max tokens", "1", "1")}
        {number("seed", "Seed", "1", "0")}
      </div>
      {greedy && <p class="quiet">This model's top k is 1: it takes the likeliest token whatever the temperature. Set top k to −1 to sample.</p>}
      <label>
        Stop at (one a line)
        <textarea class="mono" rows={2} spellcheck={false} value={settings.stop} onInput={(event) => set("stop")(event.currentTarget.value)} />
      </label>
      {!onlySampling && <ToolsField value={settings.tools} onChange={set("tools")} />}
      {!onlySampling && <SchemaField value={settings.schema} onChange={set("schema")} />}
    </div>
  );
}

interface FieldProps {
  value: string;
  onChange: (value: string) => void;
}

function ToolsField({ value, onChange }: FieldProps) {
  const { tools, error } = parseTools(value);
  const summary = tools.length === 0 ? "No tools." : `${tools.length} ${tools.length === 1 ? "tool" : "tools"}.`;
  return (
    <JsonField label="Tools (JSON)" rows={6} value={value} error={error} summary={summary} onChange={onChange}>
      <button type="button" onClick={() => onChange(JSON.stringify(EXAMPLES, null, 2))}>Use the examples</button>
      {value !== "" && <button type="button" onClick={() => onChange("")}>No tools</button>}
    </JsonField>
  );
}

function SchemaField({ value, onChange }: FieldProps) {
  const { schema, error } = parseSchema(value);
  const summary = schema ? "Answers obey this schema." : "Answers are free text.";
  return (
    <JsonField label="JSON schema of answers" rows={3} value={value} error={error} summary={summary} onChange={onChange}>
      <button type="button" onClick={() => onChange(JSON.stringify(SCHEMA, null, 2))}>Use an example schema</button>
      {value !== "" && <button type="button" onClick={() => onChange("")}>No schema</button>}
    </JsonField>
  );
}
