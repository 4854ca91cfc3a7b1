// Files that go with a message: text, and not too much of it.
import type { TextFile } from "./types";

/** Longer ones are more than any context holds. */
const MOST_BYTES = 2 << 20;

/** Its text; throws an `Error` that says why there is none. */
export async function readText(file: File): Promise<TextFile> {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than ${MOST_BYTES >> 20} MiB.`);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (text.includes("\0")) throw new Error("a zero byte");
    return { name: file.name, text };
  } catch {
    throw new Error(`${file.name} is not text in UTF-8.`);
  }
}

/** Have the browser save `text` as a file. */
export function download(name: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
