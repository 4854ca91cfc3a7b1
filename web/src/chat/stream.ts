// An answer as it arrives: deltas added up, times taken.
import { post } from "../api/client";
import { events } from "../api/events";
import type { RequestBody } from "./body";
import type { Endpoint } from "./code";
import type { AssistantMessage, Stats, ToolCall } from "./types";

interface CallDelta {
  index?: number;
  id?: string | null;
  function?: { name?: string | null; arguments?: string | null };
}

interface Chunk {
  choices?: { delta?: { content?: string | null; tool_calls?: CallDelta[] | null }; text?: string; finish_reason?: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details?: { cached_tokens?: number } | null } | null;
  error?: { message?: string } | string | null;
  message?: string;
}

/** Takes the times of one answer. */
class Stopwatch {
  private readonly sent = performance.now();
  private first?: number;
  private last = this.sent;

  piece(): void {
    this.last = performance.now();
    this.first ??= this.last;
  }

  /** A rate over less time than this says nothing. */
  private static readonly LEAST_SECONDS = 0.01;

  stats(usage: NonNullable<Chunk["usage"]>): Stats {
    const first = this.first ?? this.last;
    const seconds = (this.last - first) / 1000;
    const outputTokens = usage.completion_tokens;
    return {
      promptTokens: usage.prompt_tokens,
      cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
      outputTokens,
      firstTokenMs: first - this.sent,
      ...(outputTokens > 1 && seconds > Stopwatch.LEAST_SECONDS && { rate: (outputTokens - 1) / seconds }),
    };
  }
}

function addCall(calls: ToolCall[], delta: CallDelta): void {
  const index = delta.index ?? calls.length;
  const call = (calls[index] ??= { id: "", name: "", arguments: "" });
  if (delta.id) call.id = delta.id;
  if (delta.function?.name) call.name = delta.function.name;
  call.arguments += delta.function?.arguments ?? "";
}

/**
 * Post a body that streams and call `onChange` with what there is of it, again and again. Never throws: what went
 * wrong is part of the answer.
 */
export async function ask(
  endpoint: Endpoint, body: RequestBody, signal: AbortSignal, onChange: (answer: AssistantMessage) => void,
): Promise<AssistantMessage> {
  const watch = new Stopwatch();
  const answer: AssistantMessage = { role: "assistant", content: "", calls: [] };
  try {
    const response = await post(`v1/${endpoint}`, body, signal);
    for await (const event of events(response)) {
      const chunk = event as Chunk;
      if (chunk.error) throw new Error(typeof chunk.error === "string" ? chunk.error : (chunk.error.message ?? chunk.message));
      const choice = chunk.choices?.[0];
      const text = choice?.delta?.content ?? choice?.text ?? "";
      const calls = choice?.delta?.tool_calls ?? [];
      if (text || calls.length > 0) watch.piece();
      answer.content += text;
      for (const call of calls) addCall(answer.calls, call);
      if (choice?.finish_reason) answer.end = choice.finish_reason;
      if (chunk.usage) answer.stats = watch.stats(chunk.usage);
      onChange({ ...answer, calls: answer.calls.map((call) => ({ ...call })) });
    }
    if (!answer.end) throw new Error("The connection ended before the answer did.");
  } catch (error) {
    if (signal.aborted) answer.end = "stopped";
    else answer.error = words(error);
  }
  // A call that broke off is none.
  if (answer.end === "stopped" || answer.error) answer.calls = answer.calls.filter(({ arguments: text }) => isJson(text));
  return answer;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function words(error: unknown): string {
  // What browsers say when nobody answers differs, and none of it helps.
  if (error instanceof TypeError) return "The server does not answer.";
  return error instanceof Error ? error.message : String(error);
}
