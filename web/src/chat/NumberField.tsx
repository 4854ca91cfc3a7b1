// A number that may be left to the model's defaults.
interface Props {
  label: string;
  value: string;
  step: string;
  min: string;
  max?: string;
  /** What the server takes when the field is empty, if it is known. */
  byDefault: unknown;
  onChange: (value: string) => void;
}

export function NumberField({ label, value, step, min, max, byDefault, onChange }: Props) {
  const placeholder = typeof byDefault === "number" ? `default ${byDefault}` : "default";
  return (
    <label>
      {label}
      <input type="number" inputMode="decimal" placeholder={placeholder} value={value} step={step} min={min} max={max}
        onInput={(event) => onChange(event.currentTarget.value)} />
    </label>
  );
}
