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
  const answered = Promise.all([1, 2, 3].map(() => fetch(`${server.url}/generate`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  }).then((answer) => answer.text())));
  await page.waitForFunction(() => [...document.querySelectorAll(".figure")].some((each) => /Of machine peak\s*[\d.]+ %/.test(each.innerText)));
  await answered;
  await page.waitForFunction(() => [...document.querySelectorAll(".figure")].some((each) => /Finished\s*[34]/.test(each.innerText)));
  assert.equal(await page.locator(".plot canvas").count(), 7);
  const drawn = await page.locator(".plot canvas").evaluateAll((all) => all.map((canvas) =>
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte !== 0)));
  assert.deepEqual(drawn, Array(7).fill(true));
  assert.match(await page.getByRole("region", { name: "Log" }).innerText(), /ready to roll![^]*POST \/generate/);
  assert.match(await page.getByRole("region", { name: "Time between tokens" }).innerText(), /p99/);
  check();
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
