// Starts producers.

import path from 'node:path';
import { run, start } from './processes.mjs';

const program = path.join(import.meta.dirname, 'producer.mjs');
// No two producers have a job in common.
let nextJob = 1_000_000_000;

function withJobs(system, receiver, plan) {
  const first = nextJob;
  nextJob += 100_000_000;
  const { kind, target } = system;
  return JSON.stringify({ kind, target, port: receiver.port, first, ...plan });
}

/** Hands events in, and returns what the producer saw. */
export async function produce(system, receiver, plan) {
  return JSON.parse(await run(process.execPath, [program, withJobs(system, receiver, plan)]));
}

/** Starts a producer that hands in events until it is told to stop. */
export const flood = (system, receiver, plan) =>
  start(process.execPath, [program, withJobs(system, receiver, plan)]);
