// What the browser's tests share: the program, Chromium, and what a page may never do.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

const ROOT = join(import.meta.dirname, "../..");
const BROWSERS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];

/** The program: `QUERN_BIN`, or the latest build. */
export const QUERN = process.env.QUERN_BIN ?? ["debug", "release"]
  .map((profile) => join(ROOT, "target", profile, "quern"))
  .filter(existsSync)
  .sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
assert.ok(QUERN, "no quern to test: run `cargo build` first, or set QUERN_BIN");

const CHROMIUM = process.env.QUERN_CHROMIUM ?? BROWSERS.find(existsSync);
assert.ok(CHROMIUM, "no Chromium: install it (Debian: apt-get install chromium), or set QUERN_CHROMIUM");

/** Where pictures go. */
export const ARTIFACTS = join(import.meta.dirname, "../artifacts");
mkdirSync(ARTIFACTS, { recursive: true });

/** Start `quern serve` with the model inside it. `port` 0: any. */
export async function serve(args = [], port = 0) {
  const child = spawn(QUERN, ["serve", "--port", String(port), ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const url = await new Promise((resolve, reject) => {
    child.stderr.on("data", (bytes) => {
      log += bytes;
      const address = /Listening on (http:\/\/[^ ]+)/.exec(log)?.[1];
      if (address && log.includes("ready to roll")) resolve(address);
    });
    child.on("exit", (code) => reject(new Error(`quern ended with ${code}:\n${log}`)));
  });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  return {
    url,
    port: Number(new URL(url).port),
    async stop(signal = "SIGTERM") {
      child.kill(signal);
      await ended;
    },
  };
}

export async function launch() {
  return chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
}

/**
 * A page of a fresh profile. `check` fails if it asked another host for anything, ran into its own policy, or
 * threw.
 */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const wrongs = [];
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (asked.protocol.startsWith("http") && asked.origin !== new URL(page.url() === "about:blank" ? url : page.url()).origin) {
      wrongs.push(`asked ${asked.origin}`);
    }
  });
  page.on("pageerror", (error) => wrongs.push(`threw ${error}`));
  page.on("console", (message) => {
    if (/Content Security Policy/i.test(message.text())) wrongs.push(message.text());
  });
  await page.goto(url);
  return { page, context, check: () => assert.deepEqual(wrongs, []) };
}

/** An answer of the API, made up: frames of a stream. */
export function stream(...deltas) {
  const frame = (choice, more = {}) => `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", choices: choice ? [choice] : [], ...more })}\n\n`;
  const usage = { prompt_tokens: 10, completion_tokens: deltas.length, total_tokens: 10 + deltas.length };
  const end = deltas.some((delta) => delta.tool_calls) ? "tool_calls" : "stop";
  const body = deltas.map((delta) => frame({ index: 0, delta, finish_reason: null })).join("")
    + frame({ index: 0, delta: {}, finish_reason: end }) + frame(undefined, { usage }) + "data: [DONE]\n\n";
  return { contentType: "text/event-stream", body };
}
