// The live view: what the engine does now, and did in the last hour.
import { useState } from "preact/hooks";

import { Chart, type Line } from "./Chart";
import { count, duration, percent, seconds } from "./format";
import { Log } from "./Log";
import { latest, type Percentiles, type Sample } from "./sample";
import { useSamples } from "./useSamples";

const REQUESTS: Line[] = [
  { title: "running", colour: "--chart-a", value: (sample) => sample.running },
  { title: "waiting", colour: "--chart-b", value: (sample) => sample.waiting },
];
const TOKENS: Line[] = [
  { title: "prefill", colour: "--chart-b", value: (sample) => sample.prefill_rate },
  { title: "decode", colour: "--chart-a", value: (sample) => sample.decode_rate },
];
const POOL: Line[] = [
  { title: "in use", colour: "--chart-a", value: (sample) => sample.used_tokens },
  { title: "cached prefixes", colour: "--chart-b", value: (sample) => sample.cached_tokens },
];
const HITS: Line[] = [
  { title: "just now", colour: "--chart-a", value: (sample) => sample.recent_hit_rate },
  { title: "since start", colour: "--chart-b", value: (sample) => sample.hit_rate },
];
const PEAK: Line[] = [
  { title: "of machine peak", colour: "--chart-a", value: (sample) => sample.of_peak },
  { title: "time computing", colour: "--chart-b", value: (sample) => sample.busy },
];

function distribution(of: (sample: Sample) => Percentiles | null): Line[] {
  return [
    { title: "p50", colour: "--chart-a", value: (sample) => of(sample)?.p50 ?? null },
    { title: "p90", colour: "--chart-b", value: (sample) => of(sample)?.p90 ?? null },
    { title: "p99", colour: "--chart-c", value: (sample) => of(sample)?.p99 ?? null },
  ];
}
const TTFT = distribution((sample) => sample.ttft);
const ITL = distribution((sample) => sample.itl);

function Figure({ name, value }: { name: string; value: string }) {
  return <div class="figure"><dt>{name}</dt><dd>{value}</dd></div>;
}

/** How far back the charts go, seconds. */
const RANGES = [{ title: "5 min", seconds: 300 }, { title: "1 hour", seconds: 3600 }] as const;

export function DashboardPage() {
  const { server, samples: all, log, trouble } = useSamples();
  const [range, setRange] = useState<number>(RANGES[0].seconds);
  const samples = latest(all, range);
  const last = samples.at(-1);
  return (
    <>
      <div class="intro">
        <h1>{server?.model ?? "Live"}</h1>
        <p role="status" class={trouble ? "failure" : undefined}>
          {trouble || (server ? `Up for ${duration(server.uptime)}.` : "Connecting…")}
        </p>
      </div>
      {last && (
        <dl class="figures">
          <Figure name="Running" value={count(last.running)} />
          <Figure name="Waiting" value={count(last.waiting)} />
          <Figure name="Decode, tok/s" value={count(last.decode_rate)} />
          <Figure name="Of machine peak" value={last.of_peak === null ? "–" : percent(last.of_peak)} />
          <Figure name="KV pool in use" value={percent(last.used_tokens / last.pool_tokens)} />
          <Figure name="Finished" value={count(last.finished)} />
          <Figure name="Aborted or failed" value={count(last.aborted + last.failed)} />
        </dl>
      )}
      <div class="row ranges" role="group" aria-label="Time shown">
        {RANGES.map(({ title, seconds }) => (
          <button key={title} type="button" aria-pressed={range === seconds} onClick={() => setRange(seconds)}>{title}</button>
        ))}
      </div>
      <div class="charts">
        <Chart title="Requests" lines={REQUESTS} samples={samples} format={count} least={4} />
        <Chart title="Tokens a second" lines={TOKENS} samples={samples} format={count} least={100} />
        <Chart title="KV pool, tokens" lines={POOL} samples={samples} format={count} least={1000} />
        <Chart title="Prefix cache hits" lines={HITS} samples={samples} format={percent} least={1} />
        <Chart title="Time to first token" lines={TTFT} samples={samples} format={seconds} least={0.01} keepsLast />
        <Chart title="Time between tokens" lines={ITL} samples={samples} format={seconds} least={0.01} keepsLast />
        <Chart title="Use of the machine" lines={PEAK} samples={samples} format={percent} least={1} />
      </div>
      <p class="quiet">
        “Of machine peak” is the roofline bound, the least time that this machine's memory and arithmetic, measured at start, need for the
        steps computed, as a share of the time they took. A small model in the processor's caches passes 100 %.
      </p>
      <Log lines={log} />
    </>
  );
}
