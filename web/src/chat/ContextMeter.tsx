// How much of the model's context the conversation fills, the draft included.
import { count } from "../dashboard/format";

interface Props {
  /** Tokens of the draft, while they are known. */
  draft: number | undefined;
  used: number;
  contextLength: number | undefined;
}

/** From this share on it is said in colour. */
const NEARLY = 0.85;

export function ContextMeter({ draft, used, contextLength }: Props) {
  const words = draft === undefined ? "" : `${draft} ${draft === 1 ? "token" : "tokens"}`;
  const all = used + (draft ?? 0);
  if (contextLength === undefined || all === 0) return <p class="quiet count">{words}</p>;
  const share = all / contextLength;
  return (
    <p class={share > NEARLY ? "count nearly" : "quiet count"}>
      <span>{words}</span>
      <span class="context">
        <meter aria-label="Context used" min={0} max={contextLength} high={contextLength * NEARLY} value={Math.min(all, contextLength)} />
        {`${count(all)} of ${count(contextLength)} tokens of context`}
      </span>
    </p>
  );
}
