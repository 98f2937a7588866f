// The worker process of a peer.

import fs from 'node:fs';
import path from 'node:path';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { family, kill, start, stop } from '../processes.mjs';

const here = path.dirname(import.meta.dirname);

export class Worker {
  restarts = 0;

  /** `prepare` is done before it is started again. */
  constructor(kind, folder, settings, prepare = async () => {}) {
    Object.assign(this, { kind, folder, settings, prepare });
  }

  async start() {
    const program = path.join(here, `workers/${this.kind}.mjs`);
    const log = path.join(this.folder, 'worker.log');
    const child = start(process.execPath, [program, JSON.stringify(this.settings)], { log });
    this.child = child;
    // A supervisor starts a worker again that ends by itself, as with its store.
    child.exit.then(async (status) => {
      if (this.child !== child) return;
      fs.appendFileSync(log, `the worker has ended with ${status}\n`);
      this.restarts += 1;
      await sleep(100);
      await this.prepare();
      if (this.child === child) await this.start();
    });
    await Promise.race([once(child.stdout, 'data'), child.exit]);
  }

  family = () => (this.child ? family(this.child.pid) : []);

  async kill() {
    const { child } = this;
    this.child = undefined;
    await kill(child);
    await this.prepare();
  }

  async stop() {
    const { child } = this;
    this.child = undefined;
    if (child) await stop(child);
  }
}

/** The version of an installed package. */
export const version = (name) =>
  JSON.parse(fs.readFileSync(path.join(here, 'node_modules', name, 'package.json'), 'utf8')).version;
