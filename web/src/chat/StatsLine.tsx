// What an answer cost, in one quiet line.
import type { AssistantMessage } from "./types";

const ENDS: Record<string, string> = { length: "cut off at max tokens", stopped: "stopped", abort: "ended by the server" };

export function StatsLine({ message: { stats, end } }: { message: AssistantMessage }) {
  const parts: string[] = [];
  if (stats) {
    parts.push(`${stats.outputTokens} tokens`);
    if (stats.rate !== undefined) parts.push(`${stats.rate.toFixed(1)} tok/s`);
    parts.push(`first after ${Math.round(stats.firstTokenMs)} ms`);
    parts.push(`prompt ${stats.promptTokens}${stats.cachedTokens > 0 ? `, ${stats.cachedTokens} cached` : ""}`);
  }
  const ended = end && ENDS[end];
  if (ended) parts.push(ended);
  return parts.length > 0 ? <p class="stats">{parts.join(" · ")}</p> : null;
}
