// A number that may be left to the model's defaults.
interface Props {
  label: string;
  value: string;
  step: string;
  min: string;
  max?: string;
  onChange: (value: string) => void;
}

export function NumberField({ label, value, step, min, max, onChange }: Props) {
  return (
    <label>
      {label}
      <input type="number" inputMode="decimal" placeholder="default" value={value} step={step} min={min} max={max}
        onInput={(event) => onChange(event.currentTarget.value)} />
    </label>
  );
}
