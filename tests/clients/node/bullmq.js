'use strict';
// BullMQ, as applications use it:  node bullmq.js DRIVER, which is ioredis or redis (node-redis).
//
// Everything that it does to a queue is a Lua script; workers wait in BZPOPMIN, listeners in XREAD.

const { FlowProducer, Job, Queue, QueueEvents, UnrecoverableError, Worker } = require('bullmq');
const Redis = require('ioredis');
const { HOST, PORT, PROTOCOL, LOGIN, say, error, until, run } = require('./transcript');

const [driver] = process.argv.slice(2);
const JOBS = 60;
const LOOKS = 30;

const opened = [];

/** A connection as BullMQ is given one: for ioredis the settings, else a client of that library. */
function connection() {
  if (driver === 'ioredis') return { host: HOST, port: PORT, protocol: PROTOCOL, ...LOGIN, maxRetriesPerRequest: null };
  const one = require('redis').createClient({ socket: { host: HOST, port: PORT }, RESP: PROTOCOL, ...LOGIN });
  one.on('error', () => {});
  return one;
}

function open(Kind, ...words) {
  const options = typeof words.at(-1) === 'object' ? words.pop() : {};
  const made = new Kind(...words, { connection: connection(), ...options });
  made.on('error', (failure) => process.stderr.write(`${failure.stack}\n`));
  opened.push(made);
  return made;
}

/** A step, and the end of everything that it opened, the latest first. */
function step(name, body) {
  const run_step = async () => {
    await body();
    for (const one of opened.splice(0).reverse()) await one.close(true);
  };
  return Object.defineProperty(run_step, 'name', { value: name });
}

async function listener(queue) {
  const events = open(QueueEvents, queue);
  await events.waitUntilReady();
  return events;
}

const work = step('work', async () => {
  const queue = open(Queue, 'work');
  const events = await listener('work');
  const seen = [];
  for (const event of ['waiting', 'active', 'completed']) events.on(event, ({ jobId }) => seen.push(`${jobId} ${event}`));
  const worker = open(Worker, 'work', async (job) => {
    await job.updateProgress(50);
    await job.log(`adding ${job.data.a} and ${job.data.b}`);
    return job.data.a + job.data.b;
  }, { concurrency: 5 });
  await worker.waitUntilReady();
  const job = await queue.add('add', { a: 1, b: 2 }, { jobId: 'one' });
  say('result', await job.waitUntilFinished(events));
  const kept = await Job.fromId(queue, 'one');
  say('kept', [kept.name, kept.data, kept.returnvalue, kept.progress, kept.attemptsMade, await kept.getState()]);
  say('logs', await queue.getJobLogs('one'));
  say('again', (await queue.add('add', { a: 5, b: 5 }, { jobId: 'one' })).id);
  const many = await queue.addBulk(Array.from({ length: JOBS }, (_, number) => ({
    name: 'add', data: { a: number, b: number }, opts: { jobId: `many-${number}` },
  })));
  say('results', await Promise.all(many.map((one) => one.waitUntilFinished(events))));
  say('counts', await queue.getJobCounts());
  await until('all is heard', () => seen.filter((one) => one.endsWith('completed')).length === JOBS + 1);
  say('events', new Set(seen));
  say('completed', (await queue.getCompleted()).length);
  await (await Job.fromId(queue, 'many-0')).remove();
  say('removed', await Job.fromId(queue, 'many-0'));
  say('clean', (await queue.clean(0, 10, 'completed')).length);
  say('counts', await queue.getJobCounts());
  say('workers', (await queue.getWorkers()).length);
});

/** What looks at jobs over and over, and what the cache answers: a page that shows them. */
const dashboard = step('dashboard', async () => {
  const queue = open(Queue, 'dashboard');
  const events = await listener('dashboard');
  await queue.pause();
  const jobs = await queue.addBulk(Array.from({ length: 10 }, (_, number) => ({ name: 'j', data: { number }, opts: { jobId: `j${number}` } })));
  const page = async () => {
    const shown = await Promise.all(jobs.map((job) => Job.fromId(queue, job.id)));
    return shown.map((job) => [job.id, job.data, job.progress, job.returnvalue]);
  };
  const views = async () => {
    const seen = new Set();
    for (let look = 0; look < LOOKS; look += 1) seen.add(JSON.stringify(await page()));
    return seen;
  };
  say('waiting', await views());
  await Promise.all(jobs.map((job, number) => job.updateProgress(number)));
  say('in progress', await views());
  const worker = open(Worker, 'dashboard', async (job) => job.data.number);
  await worker.waitUntilReady();
  await queue.resume();
  await Promise.all(jobs.map((job) => job.waitUntilFinished(events)));
  say('done', await views());
});

const order = step('order', async () => {
  const queue = open(Queue, 'order');
  await queue.pause();
  say('paused', await queue.isPaused());
  for (const [id, options] of [['third', {}], ['fourth', {}], ['first', { lifo: true }]]) await queue.add('j', {}, { jobId: id, ...options });
  await queue.add('j', {}, { jobId: 'urgent', priority: 1 });
  await queue.add('j', {}, { jobId: 'not urgent', priority: 9 });
  say('counts', await queue.getJobCounts());
  const done = [];
  const worker = open(Worker, 'order', async (job) => { done.push(job.id); });
  await worker.waitUntilReady();
  await queue.resume();
  await until('all is done', () => done.length === 5);
  say('done', done);
});

const failures = step('failures', async () => {
  const queue = open(Queue, 'failures');
  const events = await listener('failures');
  const attempts = [];
  const worker = open(Worker, 'failures', async (job) => {
    attempts.push(`${job.id} ${job.attemptsMade}`);
    if (job.name === 'hopeless') throw new UnrecoverableError('no use');
    if (job.name === 'never' || job.attemptsMade < 2) throw new Error(`not at attempt ${job.attemptsMade}`);
    return 'at last';
  });
  await worker.waitUntilReady();
  const options = { attempts: 3, backoff: { type: 'exponential', delay: 10 } };
  const job = await queue.add('flaky', {}, { jobId: 'flaky', ...options });
  say('flaky', await job.waitUntilFinished(events));
  const never = await queue.add('never', {}, { jobId: 'never', ...options });
  await error('never', () => never.waitUntilFinished(events));
  const hopeless = await queue.add('hopeless', {}, { jobId: 'hopeless', ...options });
  await error('hopeless', () => hopeless.waitUntilFinished(events));
  say('attempts', attempts);
  say('failed', (await queue.getFailed()).map((one) => [one.id, one.failedReason, one.attemptsMade]).sort());
  say('counts', await queue.getJobCounts());
  await (await Job.fromId(queue, 'never')).retry();
  await until('it fails again', async () => attempts.filter((one) => one.startsWith('never')).length > 3
    && (await queue.getFailedCount()) === 2);
  await queue.drain(true);
  await queue.obliterate({ force: true });
  say('obliterated', await queue.getJobCounts());
});

const delays = step('delays', async () => {
  const queue = open(Queue, 'delays');
  const events = await listener('delays');
  const worker = open(Worker, 'delays', async (job) => Date.now() - job.timestamp >= job.opts.delay);
  await worker.waitUntilReady();
  const jobs = await Promise.all([200, 100, 50].map((delay) => queue.add('later', {}, { jobId: `d${delay}`, delay })));
  say('not before their time', await Promise.all(jobs.map((job) => job.waitUntilFinished(events))));
  const far = await queue.add('far', {}, { jobId: 'far', delay: 3_600_000 });
  say('delayed', [await far.getState(), await queue.getDelayedCount()]);
  await far.promote();
  await far.waitUntilFinished(events);
  say('promoted', await far.getState());
  await queue.upsertJobScheduler('every', { every: 100 }, { name: 'tick', data: { n: 1 } });
  let ticks = 0;
  worker.on('completed', (job) => { if (job.name === 'tick') ticks += 1; });
  await until('it ticks', () => ticks >= 3);
  say('schedulers', (await queue.getJobSchedulers()).map(({ key, name, every }) => [key, name, String(every)]));
  say('removed', [await queue.removeJobScheduler('every'), await queue.getJobSchedulersCount()]);
  await queue.setGlobalConcurrency(2);
  say('global concurrency', await queue.getGlobalConcurrency());
  await error('deduplicated', async () => {
    const deduplication = { id: 'same', ttl: 60_000 };
    const [first, second] = [await queue.add('d', {}, { deduplication, delay: 60_000 }), await queue.add('d', {}, { deduplication, delay: 60_000 })];
    return first.id === second.id;
  });
});

const flows = step('flows', async () => {
  const flow = open(FlowProducer);
  const events = await listener('parents');
  const parent = open(Worker, 'parents', async (job) => Object.values(await job.getChildrenValues()).sort());
  const child = open(Worker, 'children', async (job) => job.data.value * 2);
  await parent.waitUntilReady();
  await child.waitUntilReady();
  const tree = await flow.add({
    name: 'sum', queueName: 'parents', opts: { jobId: 'sum' },
    children: [1, 2, 3].map((value) => ({ name: 'double', queueName: 'children', data: { value }, opts: { jobId: `c${value}` } })),
  });
  say('parent', await tree.job.waitUntilFinished(events));
  const got = await flow.getFlow({ id: 'sum', queueName: 'parents' });
  say('flow', [got.job.id, got.children.map((one) => one.job.id).sort()]);
  say('dependencies', Object.keys((await tree.job.getDependencies()).processed).sort());
});

const limits = step('limits', async () => {
  const queue = open(Queue, 'limits');
  const started = [];
  const worker = open(Worker, 'limits', async (job) => { started.push(Date.now()); return job.id; }, { limiter: { max: 2, duration: 300 }, concurrency: 5 });
  await worker.waitUntilReady();
  await queue.addBulk(Array.from({ length: 5 }, (_, number) => ({ name: 'l', data: {}, opts: { jobId: `l${number}` } })));
  await until('all is done', async () => (await queue.getCompletedCount()) === 5);
  // Two at a time: the third, and the fifth, had to wait.
  say('waited', started[4] - started[0] >= 300);
});

const stalls = step('stalls', async () => {
  const queue = open(Queue, 'stalls');
  const hanging = open(Worker, 'stalls', () => new Promise(() => {}), { lockDuration: 200, skipStalledCheck: true, skipLockRenewal: true });
  await hanging.waitUntilReady();
  await queue.add('s', {}, { jobId: 'hung' });
  await until('it is active', async () => (await queue.getActiveCount()) === 1);
  // The lock of the first expires, and another takes the job over.
  const rescuer = open(Worker, 'stalls', async () => 'rescued', { stalledInterval: 100, lockDuration: 5_000, maxStalledCount: 2 });
  await rescuer.waitUntilReady();
  await until('it is rescued', async () => (await queue.getCompletedCount()) === 1);
  say('rescued', (await Job.fromId(queue, 'hung')).returnvalue);
});

run([work, dashboard, order, failures, delays, flows, limits, stalls], async () => {
  const cleaner = new Redis({ host: HOST, port: PORT, ...LOGIN });
  await cleaner.flushall();
  await cleaner.script('FLUSH');
  cleaner.disconnect();
});
