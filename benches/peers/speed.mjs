// Intake, drain, memory, and how long it takes at a fixed rate.

import { setTimeout as sleep } from 'node:timers/promises';
import { produce } from './produce.mjs';
import { both, mib, number, perSecond } from './table.mjs';

const rate = (count, micros) => (count * 1e6) / Math.max(micros, 1);

/** Measures one system, which has been started and delivers nothing yet. */
export async function speed({ system, receiver, table, sizes }) {
  const add = (what, figure) => table.add(what, system.name, figure);
  const { single, batch, batches, steady } = sizes;

  await system.holdBack();
  // The first ones open files and warm compilers up.
  await produce(system, receiver, { connections: 64, count: 2_000, lines: 0, rate: 0 });
  await produce(system, receiver, { connections: 4, count: 4_000, lines: batch, rate: 0 });
  const taken = [];
  for (const [what, plan] of [
    [`intake of single events, 64 connections, ${number(single)}`, { connections: 64, count: single, lines: 0 }],
    [`intake in batches of ${number(batch)}, 4 connections, ${number(batches)}`, { connections: 4, count: batches, lines: batch }],
  ]) {
    const { accepted, micros } = await produce(system, receiver, { ...plan, rate: 0 });
    add(what, perSecond(rate(accepted, micros)));
    taken.push(accepted);
  }
  if (system.leanIntake) {
    const { accepted, micros } = await system.leanIntake({ connections: 64, count: single });
    add('intake of single events, from the producer of benches/throughput', perSecond(rate(accepted, micros)));
    taken.push(accepted);
  }

  const backlog = 6_000 + taken.reduce((a, b) => a + b, 0);
  await receiver.report();
  let [highest, done] = [0, false];
  const watch = (async () => {
    while (!done) {
      highest = Math.max(highest, system.memory());
      await sleep(200);
    }
  })();
  await system.deliver();
  await receiver.waitFor(backlog);
  done = true;
  await watch;
  const { count, first, last } = await receiver.report();
  add('drain of what was taken', `${perSecond(rate(count - 1, last - first))} of ${number(backlog)}`);
  add('memory during the drain, at its highest', mib(highest));

  const plan = { connections: 1, lines: 0, rate: steady.rate };
  await produce(system, receiver, { ...plan, count: steady.rate });
  await receiver.waitFor(steady.rate);
  await sleep(1000);
  await receiver.report();
  const taking = await produce(system, receiver, { ...plan, count: steady.count });
  await receiver.waitFor(steady.count);
  const came = await receiver.report();
  add(`${steady.rate} events a second, accepted: p50 / p99`, both(taking.latency));
  add(`${steady.rate} events a second, at the receiver: p50 / p99`, both(came.latency));
  add(`${steady.rate} events a second, taken`, perSecond(rate(taking.accepted, taking.micros)));
  add('memory at that rate', mib(system.memory()));
}
