// What the server says: the last hour at first, then what is new, once a second.

export interface Percentiles {
  p50: number;
  p90: number;
  p99: number;
}

export interface Sample {
  time: number;
  running: number;
  waiting: number;
  prefill_rate: number;
  decode_rate: number;
  used_tokens: number;
  cached_tokens: number;
  pool_tokens: number;
  hit_rate: number | null;
  recent_hit_rate: number | null;
  ttft: Percentiles | null;
  itl: Percentiles | null;
  /** Share of the time in which a step was computed. */
  busy: number;
  /** How near those steps came to what the machine allows. */
  of_peak: number | null;
  finished: number;
  aborted: number;
  failed: number;
}

export interface Update {
  model: string;
  /** Seconds. */
  uptime: number;
  samples: Sample[];
  /** Lines of the log that are new. */
  log: string[];
}

/** As long as the server itself remembers. */
const MOST_MS = 3_600_000;
const MOST_LINES = 200;

export function append(samples: readonly Sample[], more: readonly Sample[]): readonly Sample[] {
  const last = more.at(-1);
  if (!last) return samples;
  return [...samples, ...more].filter(({ time }) => last.time - time < MOST_MS);
}

/** The last so many seconds. */
export function latest(samples: readonly Sample[], seconds: number): readonly Sample[] {
  const last = samples.at(-1);
  return last ? samples.filter(({ time }) => last.time - time < seconds * 1000) : samples;
}

export function appendLines(lines: readonly string[], more: readonly string[]): readonly string[] {
  return more.length === 0 ? lines : [...lines, ...more].slice(-MOST_LINES);
}
