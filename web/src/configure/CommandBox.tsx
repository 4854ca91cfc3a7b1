// The command, and what there is to say about it.
import { CopyButton } from "../shell/CopyButton";
import type { Answer, Tone } from "./table";

const MARKS: Record<Tone, string> = { plain: "", good: "✓", warn: "!", bad: "✕" };
const WORDS: Record<Tone, string> = { plain: "", good: "Good: ", warn: "Note: ", bad: "Problem: " };

interface Props {
  answer: Answer;
  /** The address that reproduces the choices. */
  link: string;
}

export function CommandBox({ answer: { command, notes }, link }: Props) {
  const refused = command.startsWith("#");
  return (
    <section class="answer" aria-label="Command">
      <div class="box">
        <div class="row spread">
          <h2>Run this Command:</h2>
          <span class="row">
            <CopyButton text={link} label="Copy link" />
            <CopyButton text={command} />
          </span>
        </div>
        <pre class={refused ? "command refused" : "command"} tabIndex={0}><code>{command}</code></pre>
      </div>
      <ul class="notes" aria-live="polite">
        {notes.map((note) => (
          <li key={note.text} class={note.tone}>
            <span class="mark" aria-hidden="true">{MARKS[note.tone]}</span>
            <span><span class="aside">{WORDS[note.tone]}</span>{note.text}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}
