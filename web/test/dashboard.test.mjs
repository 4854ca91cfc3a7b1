// The live view hears of what happens, and finds a server again.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch, open, serve } from "./support.mjs";

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([serve(), launch()]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const figure = (page, name) => page.locator(".figure", { hasText: name }).locator("dd");

test("figures and charts follow the engine", async () => {
  const { page, check } = await open(browser, `${server.url}/dashboard`);
  await page.locator(".figures").waitFor();
  const body = { text: "def f", sampling_params: { max_new_tokens: 400, ignore_eos: true } };
  const ask = () => fetch(`${server.url}/generate`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  }).then((answer) => answer.text());
  // The machine is measured when no request runs: until then no step has a share of its peak.
  await page.waitForFunction(() => document.querySelector(".log pre")?.innerText.includes("Machine peaks:"), null, { timeout: 120_000 });
  assert.match(await page.getByRole("region", { name: "Log" }).innerText(), /ready to roll!/);
  let seen = false;
  const peak = page.waitForFunction(() => [...document.querySelectorAll(".figure")].some((each) => /Of machine peak\s*[\d.]+ %/.test(each.innerText)))
    .finally(() => { seen = true; });
  while (!seen) await Promise.all([ask(), ask(), ask()]);
  await peak;
  await page.waitForFunction(() => [...document.querySelectorAll(".figure")].some((each) => /Finished\s*[1-9]/.test(each.innerText)));
  assert.equal(await page.locator(".plot canvas").count(), 7);
  const drawn = await page.locator(".plot canvas").evaluateAll((all) => all.map((canvas) =>
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte !== 0)));
  assert.deepEqual(drawn, Array(7).fill(true));
  await page.waitForFunction(() => document.querySelector(".log pre").innerText.includes("POST /generate"));
  assert.match(await page.getByRole("region", { name: "Time between tokens" }).innerText(), /p99/);
  check();
});

test("what happened before the page was opened is there", async () => {
  const before = await (await fetch(`${server.url}/generate`, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text: "def f", sampling_params: { max_new_tokens: 300, ignore_eos: true } }),
  })).json();
  assert.equal(before.meta_info.completion_tokens, 300);
  // The request's second is over.
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const { page, check } = await open(browser, `${server.url}/dashboard`);
  await page.locator(".figures").waitFor();
  const shown = page.getByRole("region", { name: "Time between tokens" });
  assert.match(await shown.innerText(), /p99\s*[\d.]+ ms/, "the latest figures, not a dash");
  await page.getByRole("button", { name: "1 hour" }).click();
  await page.getByRole("button", { name: "1 hour", pressed: true }).waitFor();
  check();
});

test("the marks of the time axis differ", async () => {
  const { page } = await open(browser, server.url);
  await page.addInitScript(() => {
    window.drawn = [];
    const fillText = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
      window.drawn.push(text);
      return fillText.call(this, text, ...rest);
    };
  });
  await page.goto(`${server.url}/dashboard`);
  await page.locator(".plot canvas").first().waitFor();
  await page.waitForFunction(() => window.drawn.some((text) => /\d:\d\d:\d\d/.test(text)));
  await page.evaluate(() => { window.drawn = []; });
  await page.getByRole("button", { name: "1 hour" }).click();
  await page.waitForFunction(() => window.drawn.filter((text) => /\d:\d\d:\d\d/.test(text)).length > 2);
  const drawn = await page.evaluate(() => window.drawn.filter((text) => /\d:\d\d:\d\d/.test(text)));
  assert.ok(drawn.every((text, i) => text !== drawn[i + 1]), String(drawn));
});

test("a server that dies and comes back is found again", async () => {
  let mortal = await serve();
  const { page } = await open(browser, `${mortal.url}/dashboard`);
  await page.locator(".figures").waitFor();
  await mortal.stop("SIGKILL");
  await page.getByText("Trying again").waitFor();
  mortal = await serve([], mortal.port);
  await page.getByText("Up for").waitFor();
  assert.equal(await figure(page, "Running").innerText(), "0");
  // A viewer does not hold up the end.
  const began = Date.now();
  await mortal.stop();
  assert.ok(Date.now() - began < 5000, "the drain waited for the viewer");
});
