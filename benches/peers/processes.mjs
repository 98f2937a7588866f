// Processes: started, watched, ended, and counted.

import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

const running = new Set();

/** Starts a process. What it says on standard error goes to a file. */
export function start(command, args, { log, ...options } = {}) {
  const stderr = log ? fs.openSync(log, 'a') : 'inherit';
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', stderr], ...options });
  if (log) fs.closeSync(stderr);
  child.stdin.on('error', () => {}); // it may be gone
  running.add(child);
  child.exit = once(child, 'exit').then(([code, signal]) => {
    running.delete(child);
    return code ?? signal;
  }, (error) => error);
  return child;
}

/** Runs a command to its end and returns what it says. */
export async function run(command, args, options) {
  const child = start(command, args, options);
  child.stdin.end();
  let said = '';
  for await (const part of child.stdout) said += part;
  const status = await child.exit;
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}\n${said}`);
  return said;
}

/** All processes below one, itself included. */
export function family(pid) {
  const children = new Map();
  for (const name of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = fs.readFileSync(`/proc/${name}/stat`, 'utf8');
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
    } catch {
      // It has ended meanwhile.
    }
  }
  const found = [pid];
  for (const one of found) found.push(...(children.get(one) ?? []));
  return found;
}

/** Kills a process and all below it at once, as the system does when memory runs out in a container. */
export async function kill(child) {
  const pids = family(child.pid);
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
  await child.exit;
  while (pids.some((pid) => alive(pid))) await sleep(1);
}

function alive(pid) {
  try {
    return !/^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** Ends a process as a supervisor does. */
export async function stop(child, signal = 'SIGTERM') {
  child.kill(signal);
  if ((await Promise.race([child.exit, sleep(30_000, 'late', { ref: false })])) === 'late') await kill(child);
}

/** Kills whatever still runs. */
export function killAll() {
  for (const child of running) {
    for (const pid of family(child.pid)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has ended meanwhile.
      }
    }
  }
}

/** Memory of processes in KiB. A page that several of them share is counted once. */
export function memory(pids) {
  let sum = 0;
  for (const pid of pids) {
    try {
      sum += Number(/^Pss:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))[1]);
    } catch {
      // It has ended meanwhile.
    }
  }
  return sum;
}

/** A port that nobody listens at. */
export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Asks until the answer is true. */
export async function eventually(what, ask, { seconds = 60, pause = 10 } = {}) {
  const end = performance.now() + seconds * 1000;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (performance.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
    await sleep(pause);
  }
}

/** Whether someone listens at a port. */
export async function listens(port) {
  const socket = net.connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
