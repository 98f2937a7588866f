// The same work for the service and its peers, and one table. `run` starts it.

import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { kills } from './kills.mjs';
import { killAll } from './processes.mjs';
import { Receiver } from './receiver.mjs';
import { speed } from './speed.mjs';
import { diskSync } from './stats.mjs';
import { BullMq } from './systems/bullmq.mjs';
import { Graphile } from './systems/graphile.mjs';
import { Ours } from './systems/ours.mjs';
import { Table, both } from './table.mjs';

const SYSTEMS = { ours: Ours, bullmq: BullMq, graphile: Graphile };
const PARTS = ['speed', 'kills'];
const SIZES = { single: 20_000, batch: 1000, batches: 80_000, steady: { rate: 300, count: 6_000 }, kills: 20 };
const QUICK = { single: 2_000, batch: 1000, batches: 8_000, steady: { rate: 300, count: 600 }, kills: 2 };

const args = process.argv.slice(2);
const names = args.filter((arg) => arg !== '--quick');
const unknown = names.find((name) => !(name in SYSTEMS) && !PARTS.includes(name));
if (unknown) {
  console.error(`no system or part is called ${unknown}; there are ${[...Object.keys(SYSTEMS), ...PARTS].join(', ')}`);
  process.exit(2);
}
const chosen = (all) => (all.some((name) => names.includes(name)) ? all.filter((name) => names.includes(name)) : all);
const [systems, parts] = [chosen(Object.keys(SYSTEMS)), chosen(PARTS)];
const sizes = args.includes('--quick') ? QUICK : SIZES;

const { PEERS_BINARY: binary, PEERS_BENCH: bench, PEERS_TARGET: target } = process.env;
const { PEERS_POSTGRES: postgres, PEERS_USER: user } = process.env;
const folder = fs.mkdtempSync(path.join(target, 'peers-'));
// PostgreSQL runs as another user, who has to get to its own folder.
fs.chmodSync(folder, 0o711);
// Also after Ctrl-C nothing is left behind.
process.on('exit', () => {
  killAll();
  fs.rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(130));

const table = new Table();
const [settings, remarks] = [[], []];

/** One system with a fresh store and a fresh receiver, for one measurement. */
async function measure(name, what, measurement) {
  const own = path.join(folder, `${name}-${what}`);
  fs.mkdirSync(own);
  const receiver = await Receiver.start(bench, own);
  const system = new SYSTEMS[name]({ folder: own, receiverPort: receiver.port, binary, bench, postgres, user });
  try {
    await system.start();
    return await measurement({ system, receiver, table, folder: own, sizes });
  } catch (error) {
    for (const log of ['stderr', 'worker.log', 'redis.log', 'postgres.log']) {
      const file = path.join(own, log);
      if (fs.existsSync(file)) console.error(`${log}: ${fs.readFileSync(file, 'utf8').slice(-3000)}`);
    }
    throw error;
  } finally {
    await system.stop().catch((error) => console.error(`${name}: ${error.message}`));
    await receiver.stop();
    fs.rmSync(own, { recursive: true, force: true });
  }
}

const shown = {};
for (const name of systems) {
  for (const part of parts) {
    if (part === 'speed') {
      await measure(name, 'speed', async (all) => {
        table.add("the disk's own sync, p50 / p99", all.system.name, both(await diskSync(folder)));
        await speed(all);
      });
    }
    for (const what of part === 'kills' ? Object.keys(new SYSTEMS[name]({ folder }).kills) : []) {
      remarks.push(...(await measure(name, what, (all) => kills({ ...all, what, times: sizes.kills }))));
    }
  }
  await measure(name, 'settings', async ({ system }) => {
    shown[name] = system.name;
    settings.push(...(await system.settings()));
  });
}

const list = (lines) => lines.forEach((line) => console.log(`- ${line}`));
const cpu = `${os.cpus().length} × ${os.cpus()[0].model}`;
console.log(`\nLinux ${os.release()}, ${cpu}, Node.js ${process.version}. Settings:\n`);
list(settings);
console.log('');
table.print(systems.map((name) => shown[name]));
if (remarks.length > 0) console.log('\nAfter the kills:\n');
list(remarks);
process.exit(0);
