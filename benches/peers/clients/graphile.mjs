// Hands jobs in to Graphile Worker.

import { Logger, makeWorkerUtils } from 'graphile-worker';

export async function connect({ task, connectionString }, connections) {
  const preset = { worker: { connectionString, maxPoolSize: connections, logger: new Logger(() => () => {}) } };
  const utils = await makeWorkerUtils({ preset });
  // All connections are there before the first job.
  const wait = () => utils.withPgClient((client) => client.query('select pg_sleep(0.1)'));
  await Promise.all(Array.from({ length: connections }, wait));
  return {
    add: (_connection, callback) => utils.addJob(task, callback),
    addMany: (_connection, callbacks) => utils.addJobs(callbacks.map((payload) => ({ identifier: task, payload }))),
    close: () => utils.release(),
  };
}
