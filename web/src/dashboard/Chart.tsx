// Lines over time, drawn by uPlot; the numbers of the last moment stand beside the names.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { clock } from "./format";
import type { Sample } from "./sample";

export interface Line {
  title: string;
  /** A custom property of the style sheet. */
  colour: "--chart-a" | "--chart-b" | "--chart-c";
  value: (sample: Sample) => number | null;
}

interface Props {
  title: string;
  lines: readonly Line[];
  samples: readonly Sample[];
  format: (value: number) => string;
  /** The top of the axis while all values are below it. */
  least: number;
  /** Beside the names stands the latest value there was, if there is none now. */
  keepsLast?: boolean;
}

const HEIGHT = 150;
const AXIS_WIDTH = 62;
/** Steps of the time axis, seconds: none below a second, whose marks would read alike. */
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];

function property(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function optionsOf({ lines, format, least }: Props, width: number): uPlot.Options {
  const axis: uPlot.Axis = {
    stroke: property("--quiet"),
    grid: { stroke: property("--line"), width: 1 },
    ticks: { show: false },
    font: `11px ${property("--sans")}`,
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, __, top) => [0, Math.max(top ?? 0, least) * 1.05] } },
    axes: [{ ...axis, space: 90, incrs: TIME_STEPS, values: (_, splits) => splits.map(clock) }, { ...axis, size: AXIS_WIDTH, space: 36, values: (_, splits) => splits.map(format) }],
    series: [{}, ...lines.map(({ title, colour }) => ({
      label: title, stroke: property(colour), width: 1.75, spanGaps: true, points: { show: false },
    }))],
  };
}

function dataOf({ lines, samples }: Props): uPlot.AlignedData {
  return [samples.map(({ time }) => time / 1000), ...lines.map(({ value }) => samples.map(value))];
}

export function Chart(props: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  useEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(optionsOf(props, element.clientWidth), dataOf(props), element);
    };
    draw();
    const watcher = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    watcher.observe(element);
    // Canvases do not follow the style sheet by themselves.
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", draw);
    return () => {
      watcher.disconnect();
      scheme.removeEventListener("change", draw);
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(dataOf(props)), [props.samples]);
  const known = (value: Line["value"]) => {
    const last = props.keepsLast ? props.samples.findLast((sample) => value(sample) !== null) : props.samples.at(-1);
    return last && value(last);
  };
  return (
    <section class="chart" aria-label={props.title}>
      <div class="row spread">
        <h2>{props.title}</h2>
        <ul class="legend">
          {props.lines.map(({ title, colour, value }) => {
            const now = known(value);
            return (
              <li key={title}>
                <span class={`swatch ${colour.slice(2)}`} aria-hidden="true" />
                {title} <b>{now === null || now === undefined ? "–" : props.format(now)}</b>
              </li>
            );
          })}
        </ul>
      </div>
      <div ref={place} class="plot" aria-hidden="true" />
    </section>
  );
}
