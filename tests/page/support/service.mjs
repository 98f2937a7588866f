// The real binary in a separate folder, and receivers.
import { execFile, spawn } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { eventually } from "./wait.mjs";

export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
export const TARGET = join(ROOT, "target");
const BINARY = join(process.env.CARGO_TARGET_DIR ?? TARGET, "debug/seal-dpf-urlcallback");

function environment() {
  const known = Object.entries(process.env).filter(([name]) => !name.startsWith("URLCALLBACK__") && name !== "LOG_LEVEL");
  return Object.fromEntries(known);
}

// A callback that failed is tried again after so long that it does not happen within a test.
const SETTINGS = `api.listen = "127.0.0.1:0"
outbox.min_free_bytes = 0
log.file = "service.log"
retry.initial_interval = "10m"
retry.jitter = 0
breaker.initial_pause = "10m"
breaker.max_pause = "20m"
tracker.url_template = "http://dpf.example:9125/cgi-bin/dpftracker?job={jobIdFs}"
`;

export class Service {
  static async start(settings = "", replaced = {}) {
    const service = new Service();
    service.folder = mkdtempSync(join(tmpdir(), "urlcallback-page-"));
    let text = SETTINGS;
    for (const [key, value] of Object.entries(replaced)) text = text.replace(new RegExp(`^${key} = .*$`, "m"), `${key} = ${value}`);
    // Keys before tables.
    writeFileSync(join(service.folder, "config.toml"), text + settings);
    await service.serve();
    return service;
  }

  async serve() {
    const stderr = openSync(join(this.folder, "stderr"), "w");
    const options = { cwd: this.folder, env: environment(), stdio: ["ignore", "ignore", stderr] };
    if (!existsSync(BINARY)) throw new Error(`there is no ${BINARY}`);
    this.child = spawn(BINARY, ["serve"], options);
    closeSync(stderr);
    this.ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.base = await eventually("the service listens", () => {
      if (this.child.exitCode !== null) throw new Error(`serve ended: ${this.read("stderr")}`);
      return /listening on (http:\/\/\S+)/.exec(this.read("stderr"))?.[1];
    });
    this.token = this.read("data/api-token").trim();
  }

  read(name) {
    return readFileSync(join(this.folder, name), "utf8");
  }

  log() {
    return this.read("service.log").split("\n").slice(0, -1).map((line) => JSON.parse(line));
  }

  // What a command prints.
  run(...args) {
    return new Promise((resolve) => {
      execFile(BINARY, args, { cwd: this.folder, env: environment() }, (error, stdout, stderr) => {
        resolve({ code: error ? error.code : 0, stdout, stderr });
      });
    });
  }

  async api(method, path, body) {
    const headers = { authorization: `Bearer ${this.token}`, "content-type": "application/json" };
    const response = await fetch(this.base + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  // Hands in an event; the callback's id.
  async accept(url, event = {}) {
    const job = event.jobId ?? "1";
    const parameters = { DpfControlCallbackUrl: url };
    const all = { event: "job_sending", jobId: job, jobIdFs: `fs-${job}`, parameters, ...event };
    return (await this.api("POST", "/v1/events", all)).id;
  }

  callback(id) {
    return this.api("GET", `/v1/callbacks/${id}`);
  }

  destination(name) {
    return this.api("GET", "/v1/destinations").then((all) => all.destinations.find((it) => it.destination === name));
  }

  waitFor(id, state) {
    return eventually(`${id} is ${state}`, async () => (await this.callback(id)).state === state);
  }

  // Waits until an attempt has failed and the next one is far away.
  waitForRetry(id) {
    return eventually(`${id} waits for a retry`, async () => {
      const it = await this.callback(id);
      return it.state === "pending" && it.attemptCount > 0 && !it.inFlight;
    });
  }

  async stop() {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  async end() {
    await this.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

// A receiver that answers with what `answer` says: a status, or a status and a body.
export class Receiver {
  static async start(answer = 200) {
    const receiver = new Receiver();
    Object.assign(receiver, { answer, puts: [] });
    receiver.server = http.createServer((request, response) => {
      let body = "";
      request.on("data", (part) => { body += part; });
      request.on("end", () => {
        receiver.puts.push({ path: request.url, headers: request.headers, body });
        const [status, text = ""] = [receiver.answer].flat();
        response.writeHead(status).end(text);
      });
    });
    await new Promise((resolve) => receiver.server.listen(0, "127.0.0.1", resolve));
    receiver.origin = `http://127.0.0.1:${receiver.server.address().port}`;
    return receiver;
  }

  url(path = "/") {
    return this.origin + path;
  }

  async end() {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}

// The origin of a port on which nothing listens.
export async function closed() {
  const receiver = await Receiver.start();
  await receiver.end();
  return receiver.origin;
}
