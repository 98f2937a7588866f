// The worker of BullMQ: `<settings in JSON>`.

import { Redis } from 'ioredis';
import { Worker } from 'bullmq';
import { sender } from './send.mjs';

const { queue, connection, worker: options } = JSON.parse(process.argv[2]);
const send = sender(options.concurrency);
const worker = new Worker(
  queue,
  (job) => send(job.data, job.id, job.attemptsMade + 1),
  { ...options, connection: new Redis(connection) },
);
// Its documentation asks for a listener: without one an error would end the process.
worker.on('error', (error) => console.error(error.message));
worker.on('failed', (job, error) => console.error(`failed ${job?.id}: ${error.message}`));
await worker.waitUntilReady();
console.log('ready');
process.once('SIGTERM', async () => {
  await worker.close();
  process.exit(0);
});
