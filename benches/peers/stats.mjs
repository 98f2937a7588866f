// Times and what is made of them.

import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

// The clock of `Date` ticks in milliseconds only. Both are read often, and the largest difference is
// that of a tick that has just begun.
let offset = -Infinity;
for (let i = 0; i < 20_000; i++) offset = Math.max(offset, Date.now() - performance.now());

/** Microseconds since 1970. */
export const nowMicros = () => Math.round((performance.now() + offset) * 1000);

/** The median and the 99th percentile. */
export function latency(values) {
  const sorted = Float64Array.from(values).sort();
  const at = (percent) => sorted[Math.min(Math.floor((sorted.length * percent) / 100), sorted.length - 1)] ?? 0;
  return { p50: at(50), p99: at(99) };
}

/** How long one write of a page with its sync takes on the disk under `folder`, in microseconds. */
export async function diskSync(folder) {
  const file = path.join(folder, 'sync');
  const page = Buffer.alloc(4096, 7);
  const took = [];
  const fd = fs.openSync(file, 'w');
  for (let i = 0; i < 500; i++) {
    const begin = performance.now();
    fs.writeSync(fd, page);
    fs.fdatasyncSync(fd);
    took.push((performance.now() - begin) * 1000);
    await sleep(2);
  }
  fs.closeSync(fd);
  fs.rmSync(file);
  return latency(took);
}
