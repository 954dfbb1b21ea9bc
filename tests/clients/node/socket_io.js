'use strict';
// Socket.IO with its Redis adapter:  node socket_io.js DRIVER ADAPTER
//
// DRIVER is ioredis or redis (node-redis); ADAPTER is plain, which uses PUBLISH and PSUBSCRIBE, or sharded, which uses
// SPUBLISH and SSUBSCRIBE. Two server processes; four clients, two at each; what one server is told to say reaches the
// clients of the other through Redis alone.

const { fork } = require('node:child_process');
const path = require('node:path');
const { io } = require('socket.io-client');
const Redis = require('ioredis');
const { HOST, PORT, LOGIN, say, until, run } = require('./transcript');

const [driver, adapter] = process.argv.slice(2);
const NAMES = ['ann', 'bob', 'cid', 'dan'];
const BROADCASTS = 50;

const redis = new Redis({ host: HOST, port: PORT, ...LOGIN });

/** A server process; `ask` has it do something and returns what it says to that. */
async function server() {
  const child = fork(path.join(__dirname, 'socket_io_server.js'), [driver, adapter]);
  let waiting;
  const answer = () => new Promise((resolve, reject) => { waiting = { resolve, reject }; });
  child.on('message', (message) => waiting.resolve(message));
  child.on('exit', (code) => waiting.reject(new Error(`a server exits with ${code}`)));
  const { port } = await answer();
  return {
    port,
    pid: child.pid,
    ask: async (order, ...words) => {
      const heard = answer();
      child.send({ order, words });
      const { result, failure } = await heard;
      if (failure) throw new Error(failure);
      return result;
    },
    stop: () => {
      child.removeAllListeners('exit');
      child.kill('SIGKILL');
    },
  };
}

/** A client, and what it was told so far. */
async function client(name, port) {
  const socket = io(`http://${HOST}:${port}`, { auth: { name }, transports: ['websocket'], forceNew: true, reconnection: false });
  const heard = [];
  socket.on('said', (message) => heard.push(message));
  socket.on('asked', (question, answer) => answer(`${name} says ${question}`));
  socket.on('disconnect', (reason) => heard.push(reason));
  await new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('connect_error', reject);
  });
  return { name, socket, heard };
}

async function rooms() {
  const servers = [await server(), await server()];
  const [first, second] = servers;
  try {
    await everything(first, second);
  } finally {
    for (const one of servers) one.stop();
  }
}

async function everything(first, second) {
  await until('the servers know each other', async () => (await first.ask('servers')) === 2 && (await second.ask('servers')) === 2);
  const clients = [];
  for (const [number, name] of NAMES.entries()) clients.push(await client(name, number < 2 ? first.port : second.port));
  const [ann, , cid] = clients;
  /** Returns once everybody in `names` has heard as many as `count`, and says what all have heard. */
  const heard = async (what, names, count) => {
    await until(what, () => clients.every((one) => !names.includes(one.name) || one.heard.length >= count));
    await settle();
    say(what, clients.map((one) => [one.name, one.heard.splice(0)]));
  };
  /** Whatever a server has sent before is here once everybody has answered a question behind it. */
  const settle = async () => {
    for (const one of [first, second]) await one.ask('ask', 'all', 'settled');
  };
  for (const one of clients) await one.socket.emitWithAck('join', 'all');
  // A room of one at each server.
  for (const one of [ann, cid]) say('join', await one.socket.emitWithAck('join', 'pair'));
  say('sockets', (await first.ask('sockets', 'all')).map(([name, in_rooms]) => [name, in_rooms.sort()]).sort());
  say('sockets', (await second.ask('sockets', 'pair')).map(([name]) => name).sort());
  await first.ask('emit', 'all', 'from the first');
  await heard('to all', NAMES, 1);
  await second.ask('emit', 'pair', 'from the second');
  await heard('to the pair', ['ann', 'cid'], 1);
  await first.ask('emit', 'nobody', 'lost');
  await first.ask('bytes', 'all');
  await heard('bytes', NAMES, 1);
  await first.ask('except', 'all', 'pair', 'not to the pair');
  await heard('except', ['bob', 'dan'], 1);
  await second.ask('local', 'all', 'here alone');
  await heard('local', ['cid', 'dan'], 1);
  ann.socket.emit('say', 'pair', 'from ann');
  await heard('by a client', ['cid'], 1);
  say('asked', (await first.ask('ask', 'all', 'hello')).sort());
  say('asked', (await second.ask('ask', 'pair', 'hi')).sort());
  say('told', await first.ask('tell', 'words'));
  await first.ask('join', 'pair', 'later');
  await until('they have joined', async () => (await second.ask('sockets', 'later')).length === 2);
  await second.ask('leave', 'all', 'pair');
  await until('they have left', async () => (await first.ask('sockets', 'pair')).length === 0);
  say('rooms', (await first.ask('sockets', 'all')).map(([name, in_rooms]) => [name, in_rooms.sort()]).sort());
  // In order, and none lost.
  for (let number = 0; number < BROADCASTS; number += 1) await first.ask('emit', 'all', number);
  await heard('many', NAMES, BROADCASTS);
  // The servers' connections die; their clients dial and subscribe again.
  await redis.client('KILL', 'TYPE', 'pubsub');
  await until('the servers know each other again', async () => (await first.ask('servers')) === 2 && (await second.ask('servers')) === 2);
  // Each server has several subscriptions to renew, so the first try may come too early.
  await until('everybody hears again', async () => {
    await second.ask('emit', 'all', 'after');
    return clients.every((one) => one.heard.length > 0);
  });
  await settle();
  say('after a loss', clients.map((one) => [one.name, new Set(one.heard.splice(0))]));
  await first.ask('disconnect', 'later');
  await heard('disconnected', ['ann', 'cid'], 1);
  for (const one of clients) one.socket.disconnect();
}

run([rooms], async () => {
  await redis.flushall();
});
