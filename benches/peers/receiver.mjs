// The receiver of `benches/throughput`, which all systems send to.

import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { eventually, kill, start } from './processes.mjs';

export class Receiver {
  /** `program` is the executable of the throughput bench. */
  static async start(program, folder) {
    const receiver = new Receiver();
    receiver.folder = folder;
    receiver.child = start(program, ['as', 'receiver']);
    receiver.lines = readline.createInterface({ input: receiver.child.stdout })[Symbol.asyncIterator]();
    receiver.port = Number((await receiver.lines.next()).value.split(' ')[0]);
    receiver.asked = Promise.resolve();
    return receiver;
  }

  // One question at a time, since the answers come in order.
  ask(what) {
    this.asked = this.asked.then(async () => {
      this.child.stdin.write(`${what}\n`);
      const { value } = await this.lines.next();
      if (value === undefined) throw new Error('the receiver has ended');
      return value;
    });
    return this.asked;
  }

  /** How many PUTs have come. */
  async count() {
    return Number(await this.ask('count'));
  }

  /** `{ count, first, last, latency }` of what has come. It then forgets that. */
  async report() {
    return JSON.parse(await this.ask('report'));
  }

  /** Waits until so many PUTs have come. */
  waitFor(count, seconds = 600) {
    return eventually(`${count} PUTs come`, async () => (await this.count()) >= count, { seconds });
  }

  /** `{ ids, repeats }`: which jobs have come, and how many PUTs were repeats. */
  async jobs() {
    const file = path.join(this.folder, 'jobs');
    const { repeats } = JSON.parse(await this.ask(`jobs ${file}`));
    const ids = new Set(fs.readFileSync(file, 'utf8').split('\n').filter(Boolean).map(Number));
    return { ids, repeats };
  }

  stop() {
    return kill(this.child);
  }
}
