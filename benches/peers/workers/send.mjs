// One callback as a worker sends it: the same request as the service's.

import { Pool } from 'undici';

// The service's `delivery.timeout`.
const TIMEOUT = 30_000;

/** A function that sends callbacks over at most so many kept connections. */
export function sender(connections) {
  const pools = new Map();
  return async ({ url, body }, id, attempt) => {
    const { origin, pathname } = new URL(url);
    let pool = pools.get(origin);
    if (!pool) {
      pool = new Pool(origin, { connections, headersTimeout: TIMEOUT, bodyTimeout: TIMEOUT });
      pools.set(origin, pool);
    }
    const answer = await pool.request({
      method: 'PUT',
      path: pathname,
      headers: {
        'content-type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(Date.now() / 1000)),
        'callback-attempt': String(attempt),
        'user-agent': 'peer',
      },
      body: JSON.stringify(body),
    });
    await answer.body.dump();
    if (answer.statusCode < 200 || answer.statusCode > 299) throw new Error(`status ${answer.statusCode}`);
  };
}
