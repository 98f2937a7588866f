// The producer, in a separate process: `<plan in JSON>`. The same program for all systems.
//
// kind, target: which client, and what it connects to.
// port: the receiver's. first: the number of the first job.
// connections, count; rate: events a second, or 0 for as fast as they are taken;
// lines: events of a batch, or 0 for single ones.
// flood: a file. Then it goes on until its input says `stop`, keeps so many events ahead of the
// receiver, whose count comes on its input, and writes the jobs that were accepted to the file.

import fs from 'node:fs';
import readline from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { callback } from './event.mjs';
import { latency, nowMicros } from './stats.mjs';

const plan = JSON.parse(process.argv[2]);
const { connect } = await import(`./clients/${plan.kind}.mjs`);
const client = await connect(plan.target, plan.connections);
await (plan.flood ? flood() : produce());
client.close();
process.exit(0);

function made(from, to) {
  const at = nowMicros();
  return Array.from({ length: to - from }, (_, i) => callback(plan.first + from + i, at, plan.port));
}

async function produce() {
  const latencies = [];
  let [next, late] = [0, 0];
  const begin = nowMicros();
  const one = async (connection) => {
    while (next < plan.count) {
      const from = next;
      const to = Math.min(from + Math.max(plan.lines, 1), plan.count);
      next = to;
      let sent = nowMicros();
      if (plan.rate > 0) {
        // An event that comes late because its connection waits is late from its time on.
        const planned = begin + Math.round((from * 1e6) / plan.rate);
        if (planned > sent) {
          await sleep((planned - sent) / 1000);
          sent = nowMicros();
        } else {
          sent = planned;
          late += 1;
        }
      }
      if (plan.lines > 0) await client.addMany(connection, made(from, to));
      else await client.add(connection, callback(plan.first + from, sent, plan.port));
      latencies.push(nowMicros() - sent);
    }
  };
  await Promise.all(Array.from({ length: plan.connections }, (_, i) => one(i)));
  const micros = nowMicros() - begin;
  console.log(JSON.stringify({ accepted: plan.count, micros, late, latency: latency(latencies) }));
}

async function flood() {
  const accepted = fs.createWriteStream(plan.flood);
  let [next, count, received, stopped] = [0, 0, 0, false];
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    if (line === 'stop') stopped = true;
    else received = Number(line);
  });
  // Half of the connections hand in batches, the others single events.
  const one = async (connection) => {
    const step = connection % 2 ? 1 : plan.lines;
    while (!stopped) {
      if (count - received > plan.ahead) {
        await sleep(5);
        continue;
      }
      const from = next;
      const to = from + step;
      next = to;
      try {
        if (step > 1) await client.addMany(connection, made(from, to));
        else await client.add(connection, made(from, to)[0]);
        for (let i = from; i < to; i++) accepted.write(`${plan.first + i}\n`);
        count += step;
      } catch {
        // The store is down. Whether it has taken these events is unknown, so they do not count.
        await sleep(20);
      }
    }
  };
  await Promise.all(Array.from({ length: plan.connections }, (_, i) => one(i)));
  await new Promise((resolve) => accepted.end(resolve));
  console.log(JSON.stringify({ accepted: count }));
}
