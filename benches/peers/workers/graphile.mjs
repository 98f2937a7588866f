// The worker of Graphile Worker: `<settings in JSON>`.

import { Logger, run } from 'graphile-worker';
import { sender } from './send.mjs';

const { task, worker } = JSON.parse(process.argv[2]);
const send = sender(worker.concurrentJobs);
// One line for each job would be a burden that the others do not have.
const logger = new Logger(() => (level, message) => {
  if (level === 'error' || level === 'warning') console.error(message);
});
const runner = await run({
  preset: { worker: { ...worker, logger } },
  taskList: { [task]: (payload, { job }) => send(payload, String(job.id), job.attempts) },
});
console.log('ready');
// It ends when it cannot report that jobs are done. Its supervisor then starts it again.
await runner.promise.catch((error) => console.error(error));
process.exit(1);
