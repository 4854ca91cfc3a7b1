// The fingerprint of what the built page is made from: proves without a build that `dist` belongs to `src`.
//
//   node sources.mjs           prints it
//   node sources.mjs --write   and keeps it in dist/sources.sha256
//
// quern/tests/program/page.rs computes the same: a line `SHA-256 of a file, two spaces, its path` for every source,
// sorted by path, and the SHA-256 of these lines.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const FILES = ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.mjs"];
const FOLDERS = ["public", "src"];

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const below = (folder) =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? below(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`],
  );

process.chdir(import.meta.dirname);
const paths = [...FILES, ...FOLDERS.flatMap(below)].sort();
const fingerprint = sha256(paths.map((path) => `${sha256(readFileSync(path))}  ${path}\n`).join(""));
if (process.argv.includes("--write")) writeFileSync("dist/sources.sha256", `${fingerprint}\n`);
console.log(fingerprint);
