// BullMQ on Redis.

import fs from 'node:fs';
import path from 'node:path';
import { Redis } from 'ioredis';
import { Queue } from 'bullmq';
import { eventually, freePort, kill, listens, memory, run, start, stop } from '../processes.mjs';
import { Worker, version } from './worker.mjs';

const DAY = 24 * 3600;
const QUEUE = 'callbacks';

export class BullMq {
  name = 'BullMQ on Redis';
  kind = 'bullmq';
  // A job of a killed worker is taken up when its lock has expired (30 s) and two checks (every 30 s)
  // have found it without one.
  patience = 100;
  kills = { worker: ['worker'], store: ['store'] };

  // https://docs.bullmq.io/guide/going-to-production, but for `always`: once a second, which it finds
  // enough, could lose a second of accepted jobs.
  redis = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction'];
  // The service's first pauses between attempts and its retention. 25 attempts, as the other peer has by
  // default.
  job = {
    attempts: 25,
    backoff: { type: 'exponential', delay: 5000 },
    removeOnComplete: { age: 7 * DAY },
    removeOnFail: { age: 30 * DAY },
  };
  // Those for stalled jobs are the defaults: lockDuration 30 s, stalledInterval 30 s, maxStalledCount 1.
  workerOptions = { concurrency: 16 };

  constructor({ folder }) {
    this.folder = folder;
  }

  async start() {
    this.port = await freePort();
    await this.#startRedis();
    const connection = { host: '127.0.0.1', port: this.port };
    // "Going to production": calls of a producer fail quickly, and a worker waits for Redis for ever.
    // With 0 a call of which it is unknown whether Redis has made it is not sent again.
    this.target = { queue: QUEUE, connection: { ...connection, maxRetriesPerRequest: 0 }, job: this.job };
    const workerConnection = { ...connection, maxRetriesPerRequest: null };
    this.worker = new Worker('bullmq', this.folder, { queue: QUEUE, connection: workerConnection, worker: this.workerOptions });
  }

  async #startRedis() {
    const log = path.join(this.folder, 'redis.log');
    const args = ['--port', this.port, '--bind', '127.0.0.1', '--dir', this.folder, '--logfile', log, ...this.redis];
    this.child = start('redis-server', args.map(String), { log });
    this.child.stdout.resume();
    const probe = new Redis({ host: '127.0.0.1', port: this.port, maxRetriesPerRequest: null, retryStrategy: () => 20 });
    probe.on('error', () => {});
    // It listens before it has read its file.
    await eventually('Redis is ready', async () => {
      if (this.child.exitCode !== null) throw new Error(`redis-server has ended; see ${log}`);
      return (await listens(this.port)) && probe.ping().then(() => true, () => false);
    });
    probe.disconnect();
  }

  holdBack = () => this.worker.stop();
  deliver = () => this.worker.start();

  memory = () => memory([...this.worker.family(), this.child.pid]);

  async kill(what) {
    if (what === 'worker') {
      await this.worker.kill();
      await this.worker.start();
    } else {
      await kill(this.child);
      await this.#startRedis();
    }
  }

  async #look(ask) {
    const connection = new Redis({ host: '127.0.0.1', port: this.port, maxRetriesPerRequest: null });
    try {
      return await ask(new Queue(QUEUE, { connection }));
    } finally {
      connection.disconnect();
    }
  }

  /** Jobs that are to be delivered. */
  pending = () => this.#look((queue) => queue.getJobCountByTypes('wait', 'active', 'delayed'));

  remarks = () =>
    this.#look(async (queue) => {
      const counts = await queue.getJobCounts('failed', 'active', 'wait', 'delayed');
      const reasons = new Set((await queue.getFailed(0, 99)).map((job) => job.failedReason));
      return [`left in Redis: ${JSON.stringify(counts)} ${[...reasons].join(', ')}`];
    });

  async stop() {
    await this.worker.stop();
    await stop(this.child);
  }

  async settings() {
    const redis = /v=(\S+)/.exec(await run('redis-server', ['--version']))[1];
    return [
      `BullMQ ${version('bullmq')} (ioredis ${version('ioredis')}), worker: ${JSON.stringify(this.workerOptions)},`
        + ' maxRetriesPerRequest null; stalled jobs by default (lockDuration 30 s, stalledInterval 30 s, maxStalledCount 1)',
      `BullMQ, jobs: ${JSON.stringify(this.job)}`,
      `Redis ${redis}: ${this.redis.join(' ')}; AOF loading, rewriting and snapshots by default`,
    ];
  }
}
