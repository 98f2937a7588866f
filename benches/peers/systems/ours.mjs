// The service, with its default settings. It is its own worker and its own store.

import fs from 'node:fs';
import path from 'node:path';
import { request } from 'undici';
import { eventually, freePort, kill, memory, run, start, stop } from '../processes.mjs';

export class Ours {
  name = 'this service';
  kind = 'ours';
  // The longest time without a delivery before the bench stops waiting. Longer than the first pauses.
  patience = 30;
  // What is killed, and what that is: the one process is both.
  kills = { process: ['worker', 'store'] };

  constructor({ folder, receiverPort, binary, bench }) {
    Object.assign(this, { folder, receiverPort, binary, bench });
    this.destination = `http://127.0.0.1:${receiverPort}`;
  }

  async start() {
    this.port = await freePort();
    fs.writeFileSync(path.join(this.folder, 'config.toml'), `api.listen = "127.0.0.1:${this.port}"\nlog.file = "service.log"\n`);
    await this.#serve();
    this.target = {
      origin: `http://127.0.0.1:${this.port}`,
      token: fs.readFileSync(path.join(this.folder, 'data/api-token'), 'utf8').trim(),
    };
  }

  async #serve() {
    this.child = start(this.binary, ['serve'], { cwd: this.folder, log: path.join(this.folder, 'stderr') });
    this.child.stdout.resume();
    await eventually('the service is ready', async () => {
      if (this.child.exitCode !== null) throw new Error(`serve has ended; see ${this.folder}/stderr`);
      try {
        return (await request(`http://127.0.0.1:${this.port}/readyz`)).statusCode === 200;
      } catch {
        return false;
      }
    });
  }

  async #post(what) {
    const answer = await request(`${this.target.origin}/v1/destinations/${what}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${this.target.token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ destination: this.destination }),
    });
    const text = await answer.body.text();
    if (answer.statusCode !== 200) throw new Error(`${what}: ${answer.statusCode} ${text}`);
  }

  // It has no worker to be left out; its destination is paused instead.
  holdBack = () => this.#post('pause');
  deliver = () => this.#post('resume');

  memory = () => memory([this.child.pid]);

  async kill() {
    await kill(this.child);
    await this.#serve();
  }

  /** Single events from the producer of `benches/throughput`, which costs less than an HTTP client. */
  async leanIntake({ connections, count }) {
    const { origin, token } = this.target;
    const numbers = [this.receiverPort, 1, connections, count, 0, 0].map(String);
    return JSON.parse(await run(this.bench, ['as', 'producer', new URL(origin).host, token, ...numbers]));
  }

  /** Callbacks that are to be delivered. */
  async pending() {
    const headers = { authorization: `Bearer ${this.target.token}` };
    const answer = await request(`${this.target.origin}/v1/queue`, { headers });
    return (await answer.body.json()).pending;
  }

  /** What else there is to say about the kills. */
  remarks = async () => ['one process is worker and store, so both lots of kills are the same ones'];

  async stop() {
    await stop(this.child);
  }

  async settings() {
    return [
      `${(await run(this.binary, ['--version'])).trim()}: default settings, that is, every commit is synced;`
        + ' 16 attempts at once to one destination; delivered callbacks are kept for 7 days; a log line for each',
    ];
  }
}
