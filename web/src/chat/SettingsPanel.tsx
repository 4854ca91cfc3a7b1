// What goes with every message of a conversation: system prompt, sampling, tools.
import { NumberField } from "./NumberField";
import { ToolsField } from "./ToolsField";
import type { Settings } from "./types";

interface Props {
  settings: Settings;
  /** Filling in the middle knows neither a system prompt nor tools. */
  onlySampling: boolean;
  onChange: (settings: Settings) => void;
}

export function SettingsPanel({ settings, onlySampling, onChange }: Props) {
  const set = (field: keyof Settings) => (value: string) => onChange({ ...settings, [field]: value });
  return (
    <div class="settings">
      {!onlySampling && (
        <label>
          System prompt
          <textarea rows={3} value={settings.system} onInput={(event) => set("system")(event.currentTarget.value)} />
        </label>
      )}
      <div class="numbers">
        <NumberField label="Temperature" value={settings.temperature} step="0.1" min="0" max="2" onChange={set("temperature")} />
        <NumberField label="Top p" value={settings.topP} step="0.05" min="0" max="1" onChange={set("topP")} />
        <NumberField label="Top k" value={settings.topK} step="1" min="-1" onChange={set("topK")} />
        <NumberField label="Repetition" value={settings.repetitionPenalty} step="0.05" min="0" max="2" onChange={set("repetitionPenalty")} />
        <NumberField label="Max tokens" value={settings.maxTokens} step="1" min="1" onChange={set("maxTokens")} />
        <NumberField label="Seed" value={settings.seed} step="1" min="0" onChange={set("seed")} />
      </div>
      {!onlySampling && <ToolsField value={settings.tools} onChange={set("tools")} />}
    </div>
  );
}
