// What the server says once a second, and how long a view remembers it.

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
  uptime: number;
  model: string;
  /** Lines of the log that are new. */
  log: string[];
}

/** Five minutes. */
const MOST = 300;
const MOST_LINES = 200;

export function append(samples: readonly Sample[], sample: Sample): Sample[] {
  return [...samples.slice(1 - MOST), sample];
}

export function appendLines(lines: readonly string[], more: readonly string[]): readonly string[] {
  return more.length === 0 ? lines : [...lines, ...more].slice(-MOST_LINES);
}
