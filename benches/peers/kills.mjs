// What is lost and what is repeated when the worker or the store is killed under full load.

import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from './processes.mjs';
import { flood } from './produce.mjs';
import { latency } from './stats.mjs';
import { number } from './table.mjs';

/** Kills one part of a system, which has just been started, so many times. */
export async function kills({ system, what, receiver, table, folder, times }) {
  const named = (part) => `${times} SIGKILLs of the ${part}`;
  const name = named(what);
  await receiver.report();
  await system.deliver();
  const file = path.join(folder, 'accepted');
  const producer = flood(system, receiver, { connections: 4, lines: 1000, ahead: 30_000, flood: file });
  let fed = true;
  const feed = (async () => {
    while (fed) {
      producer.stdin.write(`${await receiver.count()}\n`);
      await sleep(20);
    }
  })();

  const rates = [];
  for (let i = 0; i < times; i++) {
    const before = await receiver.count();
    await eventually('it delivers again', async () => (await receiver.count()) > before + 1000, { seconds: 180 });
    await sleep(Math.random() * 700);
    // It must be at full speed when it is killed.
    const at = performance.now();
    const count = await receiver.count();
    await eventually('it delivers', async () => (await receiver.count()) > count + 200, { pause: 1 });
    rates.push((((await receiver.count()) - count) * 1000) / (performance.now() - at));
    await system.kill(what);
  }

  fed = false;
  await feed;
  producer.stdin.end('stop\n');
  await producer.exit;
  await settled(system, receiver);
  const accepted = fs.readFileSync(file, 'utf8').split('\n').filter(Boolean).map(Number);
  const { ids, repeats } = await receiver.jobs();
  const lost = accepted.filter((id) => !ids.has(id)).length;
  for (const part of system.kills[what]) {
    const add = (row, figure) => table.add(`${named(part)}: ${row}`, system.name, figure);
    add('PUTs a second right before, median', number(Math.round(latency(rates).p50)));
    add('accepted meanwhile', number(accepted.length));
    add('lost', number(lost));
    add('repeated PUTs', `${number(repeats)} (${(repeats / times).toFixed(1)} for each kill)`);
  }
  return (await system.remarks()).map((remark) => `${system.name}, ${name}: ${remark}`);
}

/** Waits until nothing is left to be delivered, or nothing has come for as long as a system may need. */
async function settled(system, receiver) {
  let [count, since] = [await receiver.count(), performance.now()];
  while (performance.now() - since < system.patience * 1000) {
    if ((await system.pending()) === 0) return;
    await sleep(500);
    const now = await receiver.count();
    if (now > count) [count, since] = [now, performance.now()];
  }
}
