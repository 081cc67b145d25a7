// The process of the peer BullMQ: one queue, its job schedulers and its workers. Where there is a choice, the one that is
// faster for it was taken: `every` instead of a cron pattern, finished jobs removed at once, no metrics, undici's pool
// with keep-alive instead of fetch. A call of the benchmark first tries numbers of workers and of jobs at once.
//
// Arguments: the directory of the packages, the unix socket of Redis, where to send, the number of workers, the number
// of jobs that each runs at once. Commands: see command.py.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

// The packages lie elsewhere: the first argument names the directory.
const [home, socket, target, workersText, concurrencyText] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${home}/package.json`));
const { Queue, Worker } = require('bullmq');
const { Redis } = require('ioredis');
const { Pool } = require('undici');

const WORKERS = Number(workersText);
const CONCURRENCY = Number(concurrencyText);
const CONNECTIONS = WORKERS * CONCURRENCY;
const AT_ONCE = 200;
const DAY_MS = 86_400_000;

const connect = () => new Redis({ path: socket, maxRetriesPerRequest: null });
const { origin, pathname } = new URL(target);
const http = new Pool(origin, { connections: CONNECTIONS, pipelining: 1 });
const keep = { removeOnComplete: true, removeOnFail: true };
const queue = new Queue('bench', { connection: connect() });

async function send(job) {
  // The id of a scheduled run ends in its fire time; that of a delayed job is not used for it.
  const fireMs = job.data.at ?? job.id.slice(job.id.lastIndexOf(':') + 1);
  const answer = await http.request({
    path: pathname,
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Cronpost-Job-Id': job.name, 'Bench-Fire-Ms': String(fireMs) },
    body: job.data.payload,
  });
  await answer.body.dump();
}

const workers = Array.from({ length: WORKERS }, () => {
  const worker = new Worker('bench', send, { connection: connect(), concurrency: CONCURRENCY });
  worker.on('error', (error) => console.error(error));
  worker.on('failed', (job, error) => console.error(job?.id, error));
  return worker;
});

const nameOf = (number) => `j${String(number).padStart(6, '0')}`;

function payloadOf(number) {
  const start = `{"id": "${number}", "queue": "bench", "fill": "`;
  return `${start}${'x'.repeat(120 - start.length - 2)}"}`;
}

async function inParallel(items, work) {
  const waiting = items[Symbol.iterator]();
  const one = async () => {
    for (const item of waiting) await work(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
}

async function obey({ kind, first = 0, count = 0, at_ms: atMs = 0, fires = [] }) {
  if (kind === 'once') {
    await inParallel(fires.entries(), async ([number, { job, at_ms: at }]) => {
      await queue.add(job, { payload: payloadOf(number), at }, { ...keep, delay: Math.max(0, at - Date.now()) });
    });
    return;
  }
  const repeat = kind === 'daily'
    ? { every: DAY_MS, startDate: atMs }
    : { every: 1000, startDate: (Math.floor(Date.now() / 1000) + 1) * 1000 };
  const numbers = Array.from({ length: count }, (_, index) => first + index);
  await inParallel(numbers, async (number) => {
    const name = nameOf(number);
    await queue.upsertJobScheduler(name, repeat, { name, data: { payload: payloadOf(number) }, opts: keep });
  });
}

process.on('SIGTERM', () => process.exit(0));
await Promise.all(workers.map((worker) => worker.waitUntilReady()));
await queue.waitUntilReady();
console.log('ok');
for await (const line of createInterface({ input: process.stdin })) {
  await obey(JSON.parse(line));
  console.log('ok');
}
process.exit(0);
