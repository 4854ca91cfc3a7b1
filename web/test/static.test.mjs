// The generator as a file, and the build as its sources make it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { QUERN, launch, open } from "./support.mjs";

const WEB = join(import.meta.dirname, "..");
const files = (folder) => readdirSync(folder, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name).slice(folder.length)).sort();

test("the build that is checked in is what the sources make", () => {
  const fresh = mkdtempSync(join(tmpdir(), "quern-web-"));
  try {
    execFileSync(join(WEB, "node_modules/.bin/vite"), ["build", "--outDir", fresh, "--emptyOutDir", "--logLevel", "error"], { cwd: WEB });
    const kept = files(join(WEB, "dist")).filter((name) => name !== "/sources.sha256");
    assert.deepEqual(files(fresh), kept);
    for (const name of kept) {
      assert.ok(readFileSync(join(fresh, name)).equals(readFileSync(join(WEB, "dist", name))), `dist${name} differs`);
    }
  } finally {
    rmSync(fresh, { recursive: true });
  }
});

test("the static file works without a server", async () => {
  const folder = mkdtempSync(join(tmpdir(), "quern-page-"));
  const file = join(folder, "configure.html");
  execFileSync(QUERN, ["configure", "--html", file]);
  const browser = await launch();
  try {
    const { page, check } = await open(browser, `file://${file}`);
    await page.locator('input[value="sglang"]').check();
    assert.match(await page.locator("pre.command").innerText(), /^SGLANG_USE_AITER=0 python -m sglang.launch_server/);
    check();
  } finally {
    await browser.close();
    rmSync(folder, { recursive: true });
  }
});
