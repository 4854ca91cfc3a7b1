// Copies a text, and says so.
import { useState } from "preact/hooks";

interface Props {
  text: string;
  label?: string;
}

export function CopyButton({ text, label = "Copy" }: Props) {
  const [said, setSaid] = useState("");
  const copy = async () => {
    setSaid((await copied(text)) ? "Copied" : "Select and copy");
    setTimeout(() => setSaid(""), 1500);
  };
  return <button type="button" class="copy" onClick={copy} aria-live="polite">{said || label}</button>;
}

/** Put `text` on the clipboard. Over plain HTTP from another machine there is only the old way. */
export async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
