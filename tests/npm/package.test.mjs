// The package for npm, packed as it would be published: what is in it, what the tools of its readers say of it, and its
// README's program, which receives events in node and, bundled, in Chromium.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { PassThrough } from "node:stream";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DEADLINE_MS, launch, open, serve } from "../clients/browser.mjs";
import { Server } from "../page/stage.mjs";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
const TOOLS = path.join(REPOSITORY, "tests/clients/node_modules/.bin");
const README = path.join(REPOSITORY, "packaging/npm/README.md");
const run = promisify(execFile);

let folder; // of a project that uses the package
let tarball;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "fanfare-npm-"));
  const packed = path.join(folder, "packed");
  await run(path.join(REPOSITORY, "packaging/npm/pack"), [packed]);
  const names = await readdir(packed);
  assert.equal(names.length, 1);
  tarball = path.join(packed, names[0]);
  await writeFile(path.join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }));
  await run("npm", ["install", "--offline", "--no-audit", "--no-fund", tarball], { cwd: folder });
});
after(() => rm(folder, { recursive: true }));

/** The README's program, for the stream of `prices` of this server. */
async function program(server) {
  const [, code] = (await readFile(README, "utf8")).match(/```js\n([^`]*)```/);
  assert.match(code, /https:\/\/events\.example\.com\//);
  return code.replace("https://events.example.com", server.url);
}

/** Publishes when the program says that it is connected, and waits until it says that the event has arrived. */
async function showsAnEvent(server, output) {
  const lines = [];
  for await (const line of createInterface({ input: output })) {
    lines.push(line);
    if (line === "open") await server.publish("prices", "rising");
    if (line.startsWith("message")) break;
  }
  assert.deepEqual(lines, ["connecting", "open", "message rising"]);
}

test("it has the crate's version, and five files", async () => {
  const manifest = await readFile(path.join(REPOSITORY, "Cargo.toml"), "utf8");
  const [, version] = manifest.match(/^\[package\]\nname = "fanfare"\nversion = "([^"]*)"\n/);
  assert.equal(path.basename(tarball), `fanfare-sse-${version}.tgz`);
  const installed = path.join(folder, "node_modules/fanfare-sse");
  const files = ["LICENSE", "README.md", "fanfare.d.ts", "fanfare.js", "package.json"];
  assert.deepEqual((await readdir(installed)).sort(), files);
  for (const file of ["fanfare.js", "fanfare.d.ts"]) {
    const [source, copy] = [path.join(REPOSITORY, "web", file), path.join(installed, file)];
    assert.equal(await readFile(copy, "utf8"), await readFile(source, "utf8"), file);
  }
});

test("publint has nothing to say", async () => {
  const { stdout } = await run(path.join(TOOLS, "publint"), [tarball, "--strict"]);
  assert.match(stdout, /All good!/);
});

test("TypeScript finds its types, in every way to resolve modules that knows exports", async () => {
  const source = path.join(folder, "types.ts");
  await writeFile(source, `
    import { subscribe, type Gap, type Subscription } from "fanfare-sse";
    const stream: Subscription = subscribe("http://localhost", { onGap: (gap: Gap) => gap.topics });
    // @ts-expect-error a number is no URL
    subscribe(7);
    stream.close();
  `);
  for (const [module, resolution] of [["nodenext", "nodenext"], ["esnext", "bundler"]]) {
    const how = ["--module", module, "--moduleResolution", resolution, "--target", "es2022", "--lib", "es2022,dom"];
    await run(path.join(TOOLS, "tsc"), ["--noEmit", "--strict", ...how, source], { cwd: folder });
  }
});

test("the README's program receives an event in node", { timeout: 4 * DEADLINE_MS }, async () => {
  const server = await Server.start();
  const file = path.join(folder, "program.js");
  await writeFile(file, await program(server));
  const node = spawn(process.execPath, [file], { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
  process.on("exit", () => node.kill("SIGKILL"));
  await showsAnEvent(server, node.stdout);
  node.kill();
  await server.stop();
});

test("bundled, the README's program receives an event in Chromium", { timeout: 4 * DEADLINE_MS }, async () => {
  const origin = await serve("<!doctype html><title>A page of another origin</title>");
  const server = await Server.start(["--dev", "--cors-origin", origin]);
  const [source, bundle] = [path.join(folder, "page.js"), path.join(folder, "bundle.js")];
  await writeFile(source, await program(server));
  await run(path.join(TOOLS, "esbuild"), [source, "--bundle", "--minify", "--format=iife", `--outfile=${bundle}`]);
  const browser = await launch();
  try {
    const page = await open(browser, origin);
    const shown = new PassThrough();
    page.on("console", (message) => shown.write(`${message.text()}\n`));
    await page.addScriptTag({ path: bundle });
    await showsAnEvent(server, shown);
    assert.deepEqual(page.complaints, []);
  } finally {
    await browser.close();
    await server.stop();
  }
});
