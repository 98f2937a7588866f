// Hands jobs in to BullMQ.

import { Redis } from 'ioredis';
import { Queue } from 'bullmq';

const NAME = 'callback';

/** Each connection is a queue object of its own, as in so many programs. */
export async function connect({ queue, connection, job }, connections) {
  const queues = Array.from({ length: connections }, () => {
    const redis = new Redis(connection);
    redis.on('error', () => {}); // the calls say so, too
    const one = new Queue(queue, { connection: redis, defaultJobOptions: job });
    one.on('error', () => {});
    return { redis, one };
  });
  await Promise.all(queues.map(({ one }) => one.waitUntilReady()));
  return {
    add: (at, callback) => queues[at].one.add(NAME, callback),
    addMany: (at, callbacks) => queues[at].one.addBulk(callbacks.map((data) => ({ name: NAME, data }))),
    close: () => queues.forEach(({ redis }) => redis.disconnect()),
  };
}
