'use strict';
// What the workloads share: where the server is, how a step runs, and how what it saw is written down.
//
// ../ecosystem.rs says what a workload is.

const crypto = require('node:crypto');
const { setTimeout: sleep } = require('node:timers/promises');

const { env } = process;
const HOST = env.REDIS_HOST;
const PORT = Number(env.REDIS_PORT);
const PROTOCOL = Number(env.REDIS_PROTOCOL);
// Without a user, the client logs in as nobody.
const LOGIN = env.REDIS_USERNAME ? { username: env.REDIS_USERNAME, password: env.REDIS_PASSWORD } : {};

const ROUNDS = 2;
// Longer values stand in the transcript as their length and digest.
const SHOWN_MAX = 300;
// What comes by itself is looked for every so often, and so many times.
const POLL_INTERVAL_MS = 10;
const POLLS_MAX = 3_000;

let step = '';

/** A value as one line, the same one in every run: without the order of what has none, and without addresses. */
function shown(value) {
  if (Buffer.isBuffer(value)) return `bytes ${short(value.toString('latin1'))}`;
  if (typeof value === 'string') return short(value);
  if (value === undefined) return 'undefined';
  if (typeof value === 'bigint') return `${value}n`;
  if (value instanceof Error) {
    const code = value.code ? ` ${value.code}` : '';
    return `${value.constructor.name}${code}: ${value.message.replaceAll(/127\.0\.0\.1:\d+/g, 'ADDRESS')}`;
  }
  if (value instanceof Date) return `date ${value.toISOString()}`;
  if (value instanceof Set) return digested(`set(${[...value].map(shown).sort().join(', ')})`);
  if (value instanceof Map) return object('map', value);
  if (Array.isArray(value)) return digested(`[${value.map(shown).join(', ')}]`);
  if (typeof value === 'object' && value !== null) return object('', Object.entries(value));
  return String(value);
}

function object(kind, pairs) {
  return digested(`${kind}{${[...pairs].map(([key, one]) => `${shown(key)}: ${shown(one)}`).sort().join(', ')}}`);
}

function short(text) {
  return digested(JSON.stringify(text));
}

function digested(text) {
  if (text.length <= SHOWN_MAX) return text;
  return `<${text.length} characters, ${crypto.createHash('sha1').update(text).digest('hex').slice(0, 12)}>`;
}

function say(what, value) {
  process.stdout.write(`${step}/${what}: ${shown(value)}\n`);
}

/** Says what a call raised: the class is as much a part of the answer as the text. */
async function error(what, attempt) {
  let value;
  try {
    value = await attempt();
  } catch (raised) {
    say(what, raised);
    return;
  }
  say(what, ['no error', value]);
}

/** Looks until it is so, and fails when it never is. */
async function until(what, holds) {
  for (let poll = 0; poll < POLLS_MAX; poll += 1) {
    const value = await holds();
    if (value) return value;
    await sleep(POLL_INTERVAL_MS);
  }
  throw new Error(`never came true: ${what}`);
}

/** Runs every step twice, each round after `clean`. Named steps as arguments run alone, to look into a failure. */
async function run(steps, clean) {
  const asked = process.argv.slice(2).filter((argument) => argument.startsWith('--step='));
  try {
    for (let round = 0; round < ROUNDS; round += 1) {
      await clean();
      for (const one of steps) {
        if (asked.length && !asked.includes(`--step=${one.name}`)) continue;
        step = `${round}/${one.name}`;
        await one();
      }
    }
  } catch (failure) {
    process.stderr.write(`${step}: ${failure.stack}\n`);
    process.exit(1);
  }
  process.stdout.write('done\n');
  process.exit(0);
}

module.exports = { HOST, PORT, PROTOCOL, LOGIN, sleep, shown, say, error, until, run };
