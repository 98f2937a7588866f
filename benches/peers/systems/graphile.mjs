// Graphile Worker on PostgreSQL.

import fs from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import { Logger, makeWorkerUtils } from 'graphile-worker';
import { eventually, family, freePort, kill, memory, run, start, stop } from '../processes.mjs';
import { Worker, version } from './worker.mjs';

const TASK = 'callback';
const CONCURRENCY = 16;
const LOCKED = 'select locked_by, count(*)::int as jobs from graphile_worker._private_jobs where locked_by is not null group by 1';

export class Graphile {
  name = 'Graphile Worker on PostgreSQL';
  kind = 'graphile';
  patience = 30;
  kills = { worker: ['worker'], store: ['store'] };

  // https://worker.graphile.org/docs/performance: the configuration of its own figures.
  workerOptions = {
    concurrentJobs: CONCURRENCY,
    maxPoolSize: CONCURRENCY + 1,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  };
  unlocked = 0;

  /** `postgres` is the folder of its programs, `user` whoever runs it: it refuses to run as root. */
  constructor({ folder, postgres, user }) {
    Object.assign(this, { folder, postgres });
    this.data = path.join(folder, 'data');
    this.user = process.getuid() === 0 ? user : undefined;
  }

  #command(program, args) {
    const all = [path.join(this.postgres, program), ...args];
    // It becomes that user and then the program, with no process in between.
    if (this.user) all.unshift('setpriv', `--reuid=${this.user}`, `--regid=${this.user}`, '--clear-groups');
    return [all[0], all.slice(1)];
  }

  async start() {
    fs.mkdirSync(this.data);
    if (this.user) await run('chown', [this.user, this.data]);
    const initdb = ['-D', this.data, '-U', 'bench', '--auth=trust', '--encoding=UTF8', '--no-locale'];
    await run(...this.#command('initdb', initdb), { log: path.join(this.folder, 'initdb.log') });
    this.port = await freePort();
    await this.#startPostgres();
    const connectionString = `postgres://bench@127.0.0.1:${this.port}/postgres`;
    this.pool = new pg.Pool({ connectionString, max: 1 });
    this.pool.on('error', () => {});
    this.pool.on('connect', (client) => client.on('error', () => {}));
    this.target = { task: TASK, connectionString };
    const settings = { task: TASK, worker: { ...this.workerOptions, connectionString } };
    this.worker = new Worker('graphile', this.folder, settings, () => this.#unlock());
    // Makes the tables.
    this.utils = await makeWorkerUtils({ pgPool: this.pool, logger: new Logger(() => () => {}) });
    await this.utils.migrate();
  }

  async #startPostgres() {
    const args = ['-D', this.data, '-p', this.port, '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories='];
    const log = path.join(this.folder, 'postgres.log');
    this.child = start(...this.#command('postgres', args.map(String)), { log });
    this.child.stdout.resume();
    await eventually('PostgreSQL is ready', async () => {
      if (this.child.exitCode !== null) throw new Error(`postgres has ended; see ${log}`);
      const client = new pg.Client({ host: '127.0.0.1', port: this.port, user: 'bench', database: 'postgres' });
      client.on('error', () => {});
      try {
        await client.connect();
        return true;
      } catch {
        return false;
      } finally {
        client.end().catch(() => {});
      }
    });
  }

  holdBack = () => this.worker.stop();
  deliver = () => this.worker.start();

  memory = () => memory([...this.worker.family(), ...family(this.child.pid)]);

  async kill(what) {
    if (what === 'worker') {
      await this.worker.kill();
      await this.worker.start();
    } else {
      await kill(this.child);
      await this.#startPostgres();
    }
  }

  // Jobs of a killed worker stay locked for four hours. A supervisor that notices that a worker has ended may
  // unlock them: https://worker.graphile.org/docs/admin-functions#force-unlock-workers
  async #unlock() {
    const rows = await eventually('PostgreSQL answers', () => this.pool.query(LOCKED).then((it) => it.rows, () => false));
    this.unlocked += rows.reduce((sum, { jobs }) => sum + jobs, 0);
    await this.utils.forceUnlockWorkers(rows.map((row) => row.locked_by));
  }

  /** Jobs that are to be delivered. */
  async pending() {
    const { rows } = await this.pool.query('select count(*)::int as jobs from graphile_worker._private_jobs where attempts < max_attempts');
    return rows[0].jobs;
  }

  async remarks() {
    const { rows } = await this.pool.query(
      'select count(*)::int as left, count(locked_by)::int as locked, max(last_error) as error from graphile_worker._private_jobs',
    );
    const remarks = [
      `left in PostgreSQL: ${JSON.stringify(rows[0])}`,
      `jobs of ended workers that were unlocked, and would have waited for four hours: ${this.unlocked}`,
      `the worker ended by itself ${this.worker.restarts} times and was started again`,
    ];
    this.unlocked = this.worker.restarts = 0;
    return remarks;
  }

  async stop() {
    await this.worker.stop();
    await this.utils.release();
    await this.pool.end();
    // A fast shutdown.
    await stop(this.child, 'SIGINT');
  }

  async settings() {
    const names = ['fsync', 'synchronous_commit', 'wal_sync_method', 'full_page_writes', 'shared_buffers', 'max_connections'];
    const shown = [];
    for (const name of names) shown.push(`${name} ${Object.values((await this.pool.query(`show ${name}`)).rows[0])[0]}`);
    const { rows } = await this.pool.query('show server_version');
    return [
      `Graphile Worker ${version('graphile-worker')} (pg ${version('pg')}): ${JSON.stringify(this.workerOptions)}; jobs by default (25 attempts);`
        + ' a job is deleted when it is done; jobs of a killed worker are unlocked when the next one is started',
      `PostgreSQL ${rows[0].server_version}: default settings (${shown.join(', ')})`,
    ];
  }
}
