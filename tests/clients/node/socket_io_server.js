'use strict';
// One of the server processes of socket_io.js, told by its parent which adapter to use.

const { Server } = require('socket.io');
const { createAdapter, createShardedAdapter } = require('@socket.io/redis-adapter');
const { HOST, PORT, PROTOCOL, LOGIN } = require('./transcript');

const [driver, adapter] = process.argv.slice(2);

async function connections() {
  if (driver === 'ioredis') {
    const Redis = require('ioredis');
    const publisher = new Redis({ host: HOST, port: PORT, protocol: PROTOCOL, ...LOGIN });
    return [publisher, publisher.duplicate()];
  }
  const publisher = require('redis').createClient({ socket: { host: HOST, port: PORT }, RESP: PROTOCOL, ...LOGIN });
  const subscriber = publisher.duplicate();
  for (const one of [publisher, subscriber]) one.on('error', () => {});
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return [publisher, subscriber];
}

async function main() {
  const [publisher, subscriber] = await connections();
  const create = adapter === 'sharded' ? createShardedAdapter : createAdapter;
  const io = new Server({ adapter: create(publisher, subscriber) });
  io.on('connection', (socket) => {
    socket.on('join', async (room, done) => {
      await socket.join(room);
      done(`joined ${room}`);
    });
    socket.on('say', (room, message) => socket.to(room).emit('said', message));
  });
  io.on('told', (words, answer) => answer(`${words}, too`));
  // What the parent asks for is done by this server, for the clients of both.
  const orders = {
    emit: ([room, message]) => { io.to(room).emit('said', message); },
    bytes: ([room]) => { io.to(room).emit('said', Buffer.from([0, 254, 255])); },
    except: ([room, other, message]) => { io.to(room).except(other).emit('said', message); },
    local: ([room, message]) => { io.local.to(room).emit('said', message); },
    ask: ([room, question]) => io.timeout(10_000).to(room).emitWithAck('asked', question),
    sockets: async ([room]) => (await io.in(room).fetchSockets()).map((socket) => [socket.handshake.auth.name, [...socket.rooms].filter((one) => one !== socket.id)]),
    join: ([room, other]) => { io.in(room).socketsJoin(other); },
    leave: ([room, other]) => { io.in(room).socketsLeave(other); },
    disconnect: ([room]) => { io.in(room).disconnectSockets(true); },
    servers: () => io.of('/').adapter.serverCount(),
    tell: ([words]) => io.serverSideEmitWithAck('told', words),
  };
  process.on('message', async ({ order, words }) => {
    try {
      process.send({ result: await orders[order](words) ?? null });
    } catch (failure) {
      process.send({ failure: failure.message });
    }
  });
  io.listen(0);
  io.httpServer.on('listening', () => process.send({ port: io.httpServer.address().port }));
}

main().catch((failure) => {
  process.stderr.write(`${failure.stack}\n`);
  process.exit(1);
});
