// Hands events in to the service, by HTTP.

import { Pool } from 'undici';
import { event } from '../event.mjs';

const PATH = '/v1/events';

/** `connections` are as many requests at once. */
export async function connect({ origin, token }, connections) {
  const pool = new Pool(origin, { connections, headersTimeout: 30_000 });
  const post = async (type, body) => {
    const headers = { authorization: `Bearer ${token}`, 'content-type': type };
    const answer = await pool.request({ method: 'POST', path: PATH, headers, body });
    const text = await answer.body.text();
    if (answer.statusCode > 299) throw new Error(`status ${answer.statusCode}: ${text}`);
    return text;
  };
  return {
    async add(_connection, callback) {
      const { outcome } = JSON.parse(await post('application/json', JSON.stringify(event(callback))));
      if (outcome !== 'accepted') throw new Error(`the outcome is ${outcome}`);
    },
    async addMany(_connection, callbacks) {
      const lines = callbacks.map((callback) => JSON.stringify(event(callback))).join('\n');
      const outcomes = await post('application/x-ndjson', lines);
      const accepted = outcomes.split('"outcome":"accepted"').length - 1;
      if (accepted !== callbacks.length) throw new Error(`${accepted} of ${callbacks.length} accepted`);
    },
    close: () => pool.destroy(),
  };
}
