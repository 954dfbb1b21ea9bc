'use strict';
// ioredis, as applications use it:  node ioredis.js PACKAGE, which is ioredis or ioredis-5, the line before it.
//
// Version 6 speaks both protocols and RESP3 unless told otherwise; version 5 only RESP2.

const { HOST, PORT, PROTOCOL, LOGIN, sleep, say, error, until, run } = require('./transcript');

const [package_name] = process.argv.slice(2);
const Redis = require(package_name);
const HOT_PASSES = 20;

const opened = [];

/** A client as most are made; closed when its step is over. */
function client(options = {}) {
  const redis = new Redis({
    host: HOST,
    port: PORT,
    protocol: PROTOCOL,
    ...LOGIN,
    // A killed connection is dialled again soon, and a client that cannot log in gives up.
    retryStrategy: (times) => (times > 5 ? null : 20),
    ...options,
  });
  // Errors reach whoever waits for a reply; an event that nobody hears would end the process.
  redis.on('error', () => {});
  opened.push(redis);
  return redis;
}

/** A step, and the end of every client that it opened. */
function step(name, body) {
  const run_step = async () => {
    await body();
    for (const redis of opened.splice(0)) redis.disconnect();
  };
  return Object.defineProperty(run_step, 'name', { value: name });
}

/** Until the server has a client that blocks, which is what the next write is for. */
async function somebody_blocks(redis) {
  await until('somebody blocks', async () => !(await redis.info('clients')).includes('blocked_clients:0\r'));
}

function message(redis, event) {
  return new Promise((resolve) => {
    redis.once(event, (...words) => resolve(words));
  });
}

const connection = step('connection', async () => {
  const redis = client({ connectionName: 'workload', db: 3, clientInfoTag: 'mine' });
  const states = [];
  for (const event of ['connect', 'ready', 'close', 'reconnecting', 'end']) redis.on(event, () => states.push(event));
  say('ping', await redis.ping());
  say('ping with words', await redis.ping('words'));
  say('name', await redis.client('GETNAME'));
  const info = Object.fromEntries((await redis.client('INFO')).trim().split(' ').map((field) => field.split('=')));
  const { name, db, sub, psub, multi, user, resp } = info;
  say('info', { name, db, sub, psub, multi, user, resp });
  say('id', String(await redis.client('ID')) === info.id);
  say('listed', (await redis.client('LIST')).includes('name=workload'));
  await error('setinfo', () => redis.client('SETINFO', 'LIB-NAME', 'mine'));
  await error('no touch', () => redis.client('NO-TOUCH', 'ON'));
  say('no evict', await redis.client('NO-EVICT', 'ON'));
  say('set', await redis.set('where', 'three'));
  say('select', await redis.select(0));
  say('elsewhere', await redis.get('where'));
  say('select', await redis.select(3));
  say('back', [await redis.get('where'), await redis.get('where')]);
  await error('no such database', () => redis.select(99));
  say('quit', await redis.quit());
  await until('the end', () => states.includes('end'));
  say('states', states);
  await error('over', () => redis.get('where'));
  const lazy = client({ lazyConnect: true, enableReadyCheck: false });
  say('status', lazy.status);
  await lazy.connect();
  say('status', lazy.status);
  say('hello', (await lazy.call('HELLO')).map((one) => (typeof one === 'number' ? 'number' : one)));
  say('reset', await client({ enableReadyCheck: false }).call('ECHO', 'after'));
});

const server = step('server', async () => {
  const redis = client();
  const info = await redis.info();
  say('info', ['redis_version', 'redis_mode', 'role', 'loading'].map((field) => info.match(`${field}:.*`)?.[0]));
  say('sections', (await redis.info('server', 'cluster')).match(/# \w+/g));
  say('command', (await redis.command('INFO', 'GET', 'XREADGROUP')).map((one) => one.slice(0, 6)));
  say('count', await redis.command('COUNT'));
  say('getkeys', await redis.command('GETKEYS', 'MSET', 'a', 1, 'b', 2));
  say('config', await redis.config('GET', 'maxmemory-policy'));
  say('time', (await redis.time()).length);
  say('role', await redis.role());
  say('dbsize', await redis.dbsize());
  say('wait', await redis.wait(0, 10));
  say('lastsave', (await redis.lastsave()) > 0);
  say('memory', (await redis.memory('USAGE', 'nothing')) === null);
  say('slowlog', Array.isArray(await redis.slowlog('GET', 1)));
  say('latency', await redis.latency('LATEST'));
  say('object', await redis.object('HELP').then((lines) => lines.length > 0));
  // What tells a client whether it has met a cluster or a sentinel.
  for (const words of [['CLUSTER', 'INFO'], ['CLUSTER', 'SLOTS'], ['CLUSTER', 'SHARDS'], ['READONLY'], ['ASKING'],
    ['SENTINEL', 'GET-MASTER-ADDR-BY-NAME', 'main'], ['MODULE', 'LIST'], ['FT.SEARCH', 'index', '*']]) {
    await error(words.join(' '), () => redis.call(...words));
  }
  const cluster = new Redis.Cluster([{ host: HOST, port: PORT }], {
    clusterRetryStrategy: null,
    redisOptions: { ...LOGIN, protocol: PROTOCOL },
  });
  cluster.on('error', () => {});
  await error('cluster', () => cluster.get('key'));
  cluster.disconnect();
  const watched = client({ sentinels: [{ host: HOST, port: PORT }], name: 'main', sentinelRetryStrategy: () => null });
  await error('sentinel', () => watched.get('key'));
});

const values = step('values', async () => {
  const redis = client();
  say('set', await redis.set('key', 'value'));
  for (const again of ['cold', 'warm', 'warmer']) say(again, await redis.get('key'));
  say('bytes', [await redis.getBuffer('key'), await redis.getBuffer('key')]);
  say('set', await redis.set('key', 'other', 'EX', 100, 'NX'));
  say('set', await redis.set('key', 'other', 'PX', 100_000, 'XX', 'GET'));
  say('ttl', await redis.ttl('key').then((ttl) => ttl > 90 && ttl <= 100));
  say('getset', await redis.getset('key', 5));
  say('getex', await redis.getex('key', 'PERSIST'));
  say('incr', [await redis.incr('key'), await redis.incrby('key', 10), await redis.incrbyfloat('key', 0.5)]);
  say('get', await redis.get('key'));
  say('append', [await redis.append('key', '!'), await redis.strlen('key'), await redis.getrange('key', 0, 1)]);
  say('mset', await redis.mset({ a: 1, b: 'two' }));
  say('mset', await redis.mset(new Map([['c', 3]])));
  say('mget', [await redis.mget('a', 'b', 'c', 'none'), await redis.mget(['a', 'b', 'c', 'none'])]);
  say('big', await redis.set('big', '9007199254740993'));
  say('big', [await redis.incr('big'), await redis.get('big')]);
  say('hset', await redis.hset('hash', { f: 1, g: 'two' }));
  say('hset', await redis.hset('hash', 'h', Buffer.from([0, 255])));
  for (const again of ['cold', 'warm']) {
    say(`${again} hgetall`, await redis.hgetall('hash'));
    say(`${again} hgetall bytes`, await redis.hgetallBuffer('hash'));
    say(`${again} hgetall of none`, await redis.hgetall('none'));
    say(`${again} hmget`, await redis.hmget('hash', 'f', 'none'));
    say(`${again} hkeys`, await redis.hkeys('hash'));
    say(`${again} hvals`, await redis.hvals('hash'));
    say(`${again} hexists`, await redis.hexists('hash', 'f'));
  }
  say('hincrby', [await redis.hincrby('hash', 'f', 4), await redis.hget('hash', 'f'), await redis.hdel('hash', 'g')]);
  say('hrandfield', (await redis.hrandfield('hash', 2, 'WITHVALUES')).length);
  say('rpush', await redis.rpush('list', 'a', 'b', 'c'));
  for (const again of ['cold', 'warm']) {
    say(`${again} lrange`, [await redis.lrange('list', 0, -1), await redis.llen('list'), await redis.lindex('list', 1)]);
    say(`${again} lpos`, await redis.lpos('list', 'c'));
  }
  say('lmove', [await redis.lmove('list', 'list', 'LEFT', 'RIGHT'), await redis.lpop('list', 2), await redis.rpop('list')]);
  say('list', [await redis.lrange('list', 0, -1), await redis.exists('list'), await redis.type('list')]);
  say('sadd', await redis.sadd('set', ['a', 'b', 'c']));
  for (const again of ['cold', 'warm']) {
    say(`${again} smembers`, new Set(await redis.smembers('set')));
    say(`${again} sismember`, [await redis.sismember('set', 'a'), await redis.smismember('set', 'a', 'z')]);
    say(`${again} sinter`, new Set(await redis.sinter('set', 'set')));
  }
  say('zadd', await redis.zadd('zset', 1, 'one', 2.5, 'more', '+inf', 'most'));
  for (const again of ['cold', 'warm']) {
    say(`${again} zrange`, await redis.zrange('zset', 0, -1, 'WITHSCORES'));
    say(`${again} zrange by score`, await redis.zrange('zset', '(1', '+inf', 'BYSCORE', 'LIMIT', 0, 1));
    say(`${again} zscore`, [await redis.zscore('zset', 'more'), await redis.zmscore('zset', 'one', 'none')]);
    say(`${again} zrank`, [await redis.zrank('zset', 'most'), await redis.zrevrangebyscore('zset', 3, 0)]);
  }
  say('zpopmin', [await redis.zpopmin('zset'), await redis.zincrby('zset', 1, 'more'), await redis.zcard('zset')]);
  say('zunion', await redis.zunion(2, 'zset', 'set', 'WITHSCORES'));
  say('geo', await redis.geoadd('geo', 13.361389, 38.115556, 'Palermo', 15.087269, 37.502669, 'Catania'));
  for (const again of ['cold', 'warm']) {
    say(`${again} geosearch`, await redis.geosearch('geo', 'FROMMEMBER', 'Palermo', 'BYRADIUS', 200, 'km', 'WITHDIST'));
    say(`${again} geopos`, await redis.geopos('geo', 'Palermo', 'none'));
  }
  say('pf', [await redis.pfadd('hll', 'a', 'b'), await redis.pfcount('hll')]);
  say('bits', [await redis.setbit('bits', 9, 1), await redis.bitcount('bits'), await redis.getbit('bits', 9)]);
  say('bitfield', await redis.bitfield('bits', 'SET', 'u8', 0, 200, 'GET', 'u8', 0));
  say('sort', await redis.sort('set', 'ALPHA', 'DESC', 'LIMIT', 0, 2));
  const dump = await redis.dumpBuffer('set');
  say('restore', [await redis.restore('copy', 0, dump), new Set(await redis.smembers('copy')), await redis.copy('a', 'copy2')]);
  say('rename', [await redis.rename('copy2', 'renamed'), await redis.get('renamed'), await redis.get('copy2')]);
  say('expiry', await redis.pexpire('renamed', 30));
  // For the cache alone: on a busy machine it may be over already.
  await redis.get('renamed');
  await sleep(80);
  say('expired', [await redis.get('renamed'), await redis.get('renamed'), await redis.pttl('renamed')]);
  say('del', [await redis.del('a', 'b', 'none'), await redis.unlink('c'), await redis.mget('a', 'b', 'c')]);
});

const bytes = step('bytes', async () => {
  const redis = client();
  const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  say('set', await redis.set(every, every));
  say('get', [await redis.getBuffer(every), await redis.getBuffer(every)]);
  say('as text', await redis.get(every));
  say('unicode', [await redis.set('ключ', '値 🎉'), await redis.get('ключ'), await redis.get('ключ')]);
  say('empty', [await redis.set('', ''), await redis.get(''), await redis.get('')]);
  const large = 'x'.repeat(5_000_000);
  say('set large', await redis.set('large', large));
  for (const again of ['cold', 'warm']) say(`${again} large`, (await redis.get('large')) === large);
  say('middling', await redis.set('middling', large.slice(0, 100_000)));
  for (const again of ['cold', 'warm']) say(`${again} middling`, (await redis.get('middling')).length);
  const fields = Object.fromEntries(Array.from({ length: 5_000 }, (_, number) => [`field ${number}`, `value ${number}`]));
  say('hset', await redis.hset('large hash', fields));
  for (const again of ['cold', 'warm']) say(`${again} hgetall`, await redis.hgetall('large hash'));
});

const hot = step('hot', async () => {
  const [redis, other] = [client(), client()];
  for (const version of [1, 2]) {
    await redis.mset(Object.fromEntries(Array.from({ length: 10 }, (_, number) => [`hot:${number}`, `${version} ${number}`])));
    await redis.hset('hot:hash', 'version', version);
    let wrong = 0;
    for (let pass = 0; pass < HOT_PASSES; pass += 1) {
      for (const one of [redis, other]) {
        for (let number = 0; number < 10; number += 1) {
          if ((await one.get(`hot:${number}`)) !== `${version} ${number}`) wrong += 1;
        }
        if ((await one.hgetall('hot:hash')).version !== String(version)) wrong += 1;
        // All at once, as an application does that awaits them together.
        const together = await Promise.all(Array.from({ length: 10 }, (_, number) => one.get(`hot:${number}`)));
        wrong += together.filter((value, number) => value !== `${version} ${number}`).length;
      }
    }
    say('wrong', wrong);
  }
});

const pipelines = step('pipelines', async () => {
  const redis = client();
  say('pipeline', await redis.pipeline().set('p', 1).get('p').incr('p').get('p').hgetall('none').mget('p', 'none').exec());
  say('fails', await redis.pipeline().set('p', 'text').lpush('p', 'x').get('p').exec());
  say('array', await redis.pipeline([['set', 'p', 'y'], ['get', 'p'], ['getBuffer', 'p']]).exec());
  const many = redis.pipeline();
  for (let number = 0; number < 1_000; number += 1) many.set(`p:${number % 50}`, number).get(`p:${number % 50}`);
  say('many', await many.exec());
  const automatic = client({ enableAutoPipelining: true });
  await automatic.set('auto', 0);
  say('automatic', await Promise.all(Array.from({ length: 200 }, (_, number) => (
    number % 3 ? automatic.get('auto') : automatic.set('auto', number)))));
  say('at once', await Promise.all(Array.from({ length: 500 }, () => redis.incr('counter'))));
  say('callback', await new Promise((resolve) => { redis.get('p', (...outcome) => resolve(outcome)); }));
});

const transactions = step('transactions', async () => {
  const [redis, other] = [client(), client()];
  say('multi', await redis.multi().set('t', 1).get('t').incr('t').hgetall('none').exec());
  say('fails inside', await redis.multi().set('t', 'text').incr('t').get('t').exec());
  await error('refused', () => redis.multi().set('t').get('t').exec());
  say('unpipelined', await redis.multi({ pipeline: false }));
  say('queued', await redis.set('t', 2));
  say('queued', await redis.get('t'));
  say('exec', await redis.exec());
  await redis.multi({ pipeline: false });
  await redis.set('t', 3);
  say('discard', await redis.discard());
  say('get', await redis.get('t'));
  await redis.watch('t');
  say('watched', await redis.get('t'));
  say('elsewhere', await other.set('t', 'changed'));
  say('conflict', await redis.multi().set('t', 4).exec());
  say('get', await redis.get('t'));
  await redis.watch('t');
  say('no conflict', await redis.multi().set('t', 5).get('t').exec());
  await redis.watch('t');
  await other.set('t', 6);
  await redis.unwatch();
  say('unwatched', await redis.multi().incr('t').exec());
  say('nested', await redis.pipeline().multi().incr('t').get('t').exec().get('t').exec());
  await error('exec alone', () => redis.call('EXEC'));
  // Everybody adds, and nothing is lost.
  await redis.set('contended', 0);
  await Promise.all(Array.from({ length: 4 }, async () => {
    const mine = client();
    for (let done = 0; done < 8;) {
      await mine.watch('contended');
      const value = Number(await mine.get('contended'));
      if (await mine.multi().set('contended', value + 1).exec()) done += 1;
    }
  }));
  say('sum', await redis.get('contended'));
});

const scripts = step('scripts', async () => {
  const redis = client();
  redis.defineCommand('addTo', { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  redis.defineCommand('echoAll', { lua: 'return {KEYS, ARGV}' });
  redis.defineCommand('readOnly', { numberOfKeys: 1, readOnly: true, lua: "return redis.call('GET', KEYS[1])" });
  say('first', [await redis.addTo('s', 5), await redis.get('s')]);
  say('again', [await redis.addTo('s', 5), await redis.get('s'), await redis.get('s')]);
  say('keys', await redis.echoAll(2, 'k', 'l', 'a', 'b'));
  say('bytes', await redis.echoAllBuffer(1, 'k', Buffer.from([255])));
  say('read only', await redis.readOnly('s'));
  say('pipeline', await redis.pipeline().addTo('s', 1).get('s').echoAll(0).exec());
  say('multi', await redis.multi().addTo('s', 1).get('s').exec());
  say('flush', await redis.script('FLUSH'));
  say('loaded anew', [await redis.addTo('s', 1), await redis.get('s')]);
  await redis.script('FLUSH');
  say('loaded anew in a pipeline', await redis.pipeline().addTo('s', 1).get('s').exec());
  await error('no script', () => redis.evalsha('f'.repeat(40), 0));
  await error('fails', () => redis.eval('return nil + 1', 0));
  await error('own words', () => redis.eval("return redis.error_reply('MY words')", 0));
  say('types', await redis.eval("return {1, 'two', {3}, false, redis.status_reply('FINE')}", 0));
  say('undeclared', [await redis.eval("return redis.call('SET', 's', 'by script')", 0), await redis.get('s')]);
  say('function', await redis.function('LOAD', 'REPLACE',
    "#!lua name=mine\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)"));
  say('fcall', [await redis.fcall('put', 1, 's', 'by function'), await redis.get('s')]);
});

const scans = step('scans', async () => {
  const redis = client();
  const numbers = Array.from({ length: 300 }, (_, number) => number);
  await redis.mset(numbers.flatMap((number) => [`scan:${number}`, number]));
  await redis.hset('scanned:hash', numbers.flatMap((number) => [`f${number}`, number]));
  await redis.sadd('scanned:set', numbers);
  await redis.zadd('scanned:zset', numbers.flatMap((number) => [number, `m${number}`]));
  const all = async (stream) => {
    const items = [];
    for await (const page of stream) items.push(...page);
    return items.sort();
  };
  say('scan', await all(redis.scanStream({ match: 'scan:*', count: 20 })));
  say('scan of a type', await all(redis.scanStream({ match: 'scanned:*', type: 'hash' })));
  say('scan bytes', (await all(redis.scanBufferStream({ match: 'scan:1?' }))).length);
  say('hscan', await all(redis.hscanStream('scanned:hash', { match: 'f1*' })));
  say('sscan', await all(redis.sscanStream('scanned:set', { count: 50 })));
  say('zscan', await all(redis.zscanStream('scanned:zset')));
  say('keys', (await redis.keys('scan:2*')).sort());
  say('randomkey', (await redis.randomkey()) !== null);
});

const subscriptions = step('subscriptions', async () => {
  const [subscriber, publisher] = [client(), client()];
  say('subscribe', await subscriber.subscribe('news', 'more'));
  say('psubscribe', await subscriber.psubscribe('pattern:*'));
  await error('a command', () => subscriber.get('key'));
  say('ping', await subscriber.ping());
  let heard = message(subscriber, 'message');
  say('publish', await publisher.publish('news', 'one'));
  say('heard', await heard);
  heard = message(subscriber, 'pmessageBuffer');
  say('publish', await publisher.publish('pattern:x', Buffer.from([0, 255])));
  say('heard', await heard);
  say('channels', (await publisher.pubsub('CHANNELS')).sort());
  say('numsub', [await publisher.pubsub('NUMSUB', 'news', 'none'), await publisher.pubsub('NUMPAT')]);
  say('unsubscribe', await subscriber.unsubscribe('news'));
  say('nobody', await publisher.publish('news', 'two'));
  // The connection dies; ioredis dials again, and subscribes again, by itself.
  const id = (await publisher.client('LIST', 'TYPE', 'PUBSUB')).match(/\bid=(\d+)/)[1];
  const ready = message(subscriber, 'ready');
  say('kill', await publisher.client('KILL', 'ID', id));
  await ready;
  await until('it has subscribed again', async () => (await publisher.pubsub('NUMSUB', 'more'))[1] === 1
    && (await publisher.pubsub('NUMPAT')) === 1);
  heard = message(subscriber, 'message');
  say('publish', await publisher.publish('more', 'after'));
  say('heard', await heard);
  say('unsubscribe', [await subscriber.unsubscribe('more'), await subscriber.punsubscribe()]);
  say('usable', await subscriber.set('after', 1));
  say('ssubscribe', await subscriber.ssubscribe('shard'));
  heard = message(subscriber, 'smessage');
  say('spublish', await publisher.spublish('shard', 'three'));
  say('heard', await heard);
  say('sunsubscribe', await subscriber.sunsubscribe('shard'));
  // A reader that is told to look finds what the news is about.
  await publisher.set('subject', 0);
  await subscriber.subscribe('changed');
  const reader = client();
  let stale = 0;
  for (let version = 1; version <= 20; version += 1) {
    await reader.get('subject');
    heard = message(subscriber, 'message');
    await publisher.pipeline().set('subject', version).publish('changed', version).exec();
    await heard;
    if ((await reader.get('subject')) !== String(version)) stale += 1;
  }
  say('stale', stale);
});

const announcements = step('announcements', async () => {
  const [redis, subscriber] = [client(), client()];
  await redis.config('SET', 'notify-keyspace-events', 'KEA');
  await subscriber.psubscribe('__keyevent@0__:*');
  const events = [];
  subscriber.on('pmessage', (pattern, channel, key) => events.push(`${channel.split(':')[1]} ${key}`));
  await redis.set('noted', 1, 'PX', 30);
  await redis.get('noted');
  await until('expired', () => events.length === 3);
  say('events', events);
  say('get', await redis.get('noted'));
  await redis.config('SET', 'notify-keyspace-events', '');
});

const tracking = step('tracking', async () => {
  const [redis, other, listener] = [client(), client(), client({ protocol: 2 })];
  const id = await listener.client('ID');
  await listener.subscribe('__redis__:invalidate');
  await other.set('tracked', 'old');
  say('tracking', await redis.client('TRACKING', 'ON', 'REDIRECT', id));
  say('get', await redis.get('tracked'));
  const heard = new Promise((resolve) => { listener.once('message', (channel) => resolve(channel)); });
  say('set', await other.set('tracked', 'new'));
  say('heard', await heard);
  say('get', await redis.get('tracked'));
  say('off', [await redis.client('TRACKING', 'OFF'), await redis.get('tracked'), await redis.client('GETREDIR')]);
});

const blocking = step('blocking', async () => {
  const [redis, pusher] = [client(), client()];
  say('rpush', await pusher.rpush('queue', 'first'));
  say('at once', await redis.blpop('queue', 5));
  let waits = redis.blpop('none', 'queue', 20);
  await somebody_blocks(pusher);
  say('rpush', await pusher.rpush('queue', 'a', 'b'));
  say('blpop', await waits);
  waits = redis.brpopBuffer('stack', 0);
  await somebody_blocks(pusher);
  await pusher.rpush('stack', Buffer.from([254]));
  say('brpop', await waits);
  waits = redis.blmove('source', 'target', 'LEFT', 'RIGHT', 20);
  await somebody_blocks(pusher);
  await pusher.rpush('source', 'x');
  say('blmove', [await waits, await redis.lrange('target', 0, -1)]);
  waits = redis.bzpopmin('zqueue', 20);
  await somebody_blocks(pusher);
  await pusher.zadd('zqueue', 1.5, 'm');
  say('bzpopmin', await waits);
  waits = redis.blmpop(20, 2, 'none', 'mqueue', 'LEFT', 'COUNT', 2);
  await somebody_blocks(pusher);
  await pusher.rpush('mqueue', 1, 2, 3);
  say('blmpop', await waits);
  say('times out', [await redis.blpop('none', 0.05), await redis.brpoplpush('none', 'target', 0.05)]);
  // What is behind a blocking command waits its turn.
  waits = redis.blpop('turn', 20);
  const behind = redis.get('none');
  await somebody_blocks(pusher);
  await pusher.rpush('turn', 1);
  say('in turn', [await waits, await behind]);
  // A blocked client that is cut off asks again by itself.
  const blocked = client({ maxRetriesPerRequest: null });
  const id = await blocked.client('ID');
  waits = blocked.blpop('again', 0);
  await somebody_blocks(pusher);
  say('kill', await pusher.client('KILL', 'ID', id));
  await pusher.rpush('again', 'it came');
  say('asked again', await waits);
  waits = blocked.blpop('unblocked', 0);
  await somebody_blocks(pusher);
  say('unblock', [await pusher.client('UNBLOCK', await id_of_blocked(pusher)), await waits]);
});

async function id_of_blocked(redis) {
  return (await redis.client('LIST')).split('\n').find((line) => / flags=\w*b/.test(line)).match(/\bid=(\d+)/)[1];
}

const streams = step('streams', async () => {
  const [redis, adder] = [client(), client()];
  for (let number = 1; number <= 5; number += 1) {
    await redis.xadd('stream', `${number}-1`, 'number', number, 'raw', Buffer.from([0, 127]));
  }
  say('xlen', await redis.xlen('stream'));
  for (const again of ['cold', 'warm']) {
    say(`${again} xrange`, await redis.xrange('stream', '-', '+'));
    say(`${again} xrevrange`, await redis.xrevrange('stream', '+', '-', 'COUNT', 2));
  }
  say('xread', await redis.xread('COUNT', 2, 'STREAMS', 'stream', '2-1'));
  say('xread of none', await redis.xread('STREAMS', 'stream', '$'));
  say('group', await redis.xgroup('CREATE', 'stream', 'group', '0'));
  await error('group again', () => redis.xgroup('CREATE', 'stream', 'group', '0'));
  say('alice', await redis.xreadgroup('GROUP', 'group', 'alice', 'COUNT', 3, 'STREAMS', 'stream', '>'));
  say('bob', await redis.xreadgroup('GROUP', 'group', 'bob', 'COUNT', 1, 'STREAMS', 'stream', '>'));
  say('ack', await redis.xack('stream', 'group', '1-1'));
  say('pending', await redis.xpending('stream', 'group'));
  say('pending', (await redis.xpending('stream', 'group', '-', '+', 9)).map(([id, name, , times]) => [id, name, times]));
  say('claim', await redis.xclaim('stream', 'group', 'bob', 0, '2-1'));
  say('autoclaim', await redis.xautoclaim('stream', 'group', 'carol', 0, '0', 'COUNT', 1));
  say('history', await redis.xreadgroup('GROUP', 'group', 'bob', 'STREAMS', 'stream', '0'));
  say('info', await redis.xinfo('GROUPS', 'stream'));
  let waits = redis.xread('BLOCK', 20_000, 'STREAMS', 'stream', '$');
  await somebody_blocks(adder);
  await adder.xadd('stream', '9-1', 'late', 'yes');
  say('blocked', await waits);
  await redis.xreadgroup('GROUP', 'group', 'alice', 'STREAMS', 'stream', '>');
  waits = redis.xreadgroup('GROUP', 'group', 'alice', 'BLOCK', 20_000, 'STREAMS', 'stream', '>');
  await somebody_blocks(adder);
  await adder.xadd('stream', '10-1', 'later', 'yes');
  say('blocked', await waits);
  say('times out', await redis.xread('BLOCK', 30, 'STREAMS', 'stream', '$'));
  say('trim', [await redis.xtrim('stream', 'MAXLEN', 2), await redis.xdel('stream', '9-1'), await redis.xrange('stream', '-', '+')]);
});

const users = step('users', async () => {
  const redis = client();
  say('setuser', await redis.acl('SETUSER', 'alice', 'reset', 'on', '>secret', '~her:*', '&her:*', '+@all', '-@admin', '+acl|whoami'));
  const alice = client({ username: 'alice', password: 'secret', enableReadyCheck: false });
  say('whoami', await alice.acl('WHOAMI'));
  say('own', [await alice.set('her:key', 1), await alice.get('her:key'), await alice.get('her:key')]);
  await redis.set('his:key', 'secret');
  say('his', [await redis.get('his:key'), await redis.get('his:key')]);
  await error('foreign', () => alice.get('his:key'));
  await error('foreign among own', () => alice.mget('her:key', 'his:key'));
  await error('admin', () => alice.config('GET', '*'));
  await error('foreign channel', () => alice.publish('news', 'x'));
  say('foreign in a transaction', await alice.multi().get('her:key').exec());
  await error('foreign in a transaction', () => alice.multi().get('his:key').exec());
  for (const [name, options] of [['wrong password', { username: 'alice', password: 'guess' }], ['nobody', { username: 'nobody', password: 'x' }]]) {
    const refused = client({ ...options, maxRetriesPerRequest: 0, retryStrategy: () => null });
    const told = new Promise((resolve) => { refused.on('error', resolve); });
    await error(name, () => refused.get('her:key'));
    say(`${name}, the event`, await told);
  }
  say('auth', [await alice.auth('alice', 'secret'), await alice.get('her:key')]);
  await error('auth', () => alice.auth('alice', 'guess'));
  say('still', await alice.get('her:key'));
  say('deluser', await redis.acl('DELUSER', 'alice'));
});

const reconnection = step('reconnection', async () => {
  const [redis, killer] = [client({ connectionName: 'victim', db: 2 }), client()];
  say('set', await redis.set('survivor', 1));
  const id = await redis.client('ID');
  const ready = message(redis, 'ready');
  say('kill', await killer.client('KILL', 'ID', id));
  await ready;
  say('the same database and name', [await redis.get('survivor'), await redis.client('GETNAME')]);
  say('another connection', (await redis.client('ID')) > id);
  const again = message(redis, 'ready');
  redis.disconnect(true);
  await again;
  say('again', await redis.get('survivor'));
  // Commands that are given while there is no connection wait for the next one.
  redis.disconnect(true);
  say('queued', await Promise.all([redis.incr('survivor'), redis.get('survivor')]));
  const strict = client({ reconnectOnError: (failure) => (failure.message.startsWith('WRONGTYPE') ? 1 : 0) });
  await strict.set('text', 'x');
  const dialled = message(strict, 'ready');
  await error('reconnects on an error', () => strict.lpush('text', 1));
  await dialled;
  say('get', await strict.get('text'));
  const impatient = client({ commandTimeout: 1_000 });
  await error('times out', () => impatient.blpop('none', 5));
});

const prefixes = step('prefixes', async () => {
  const [redis, plain] = [client({ keyPrefix: 'mine:' }), client()];
  say('set', await redis.set('key', 1));
  say('get', [await redis.get('key'), await plain.get('mine:key'), await redis.mget('key', 'none')]);
  say('pipeline', await redis.pipeline().incr('key').get('key').del('key').exec());
  say('eval', await redis.eval('return KEYS[1]', 1, 'key'));
});

const monitor = step('monitor', async () => {
  const [redis, other] = [client(), client()];
  const watching = await redis.monitor();
  const seen = new Promise((resolve) => {
    watching.on('monitor', (time, words) => { if (words[1] === 'monitored') resolve(words); });
  });
  say('set', await other.set('monitored', 'value'));
  say('seen', await seen);
  watching.disconnect();
});

const errors = step('errors', async () => {
  const redis = client({ showFriendlyErrorStack: true });
  await redis.set('text', 'x');
  await redis.get('text');
  await error('wrong type', () => redis.lpush('text', 1));
  await error('wrong type of a read', () => redis.hgetall('text'));
  await error('wrong type of a read again', () => redis.hgetall('text'));
  await error('no number', () => redis.incr('text'));
  await error('arguments', () => redis.call('GET'));
  await error('unknown', () => redis.call('NOSUCH', 'a', 'b'));
  await error('unknown subcommand', () => redis.config('NOSUCH'));
  await error('syntax', () => redis.set('text', 'x', 'NOSUCH'));
  await error('no key', () => redis.rename('none', 'text'));
  await error('no group', () => redis.xreadgroup('GROUP', 'g', 'me', 'STREAMS', 'none', '>'));
  await redis.lpush('text', 1).catch((failure) => say('command', failure.command));
  say('usable', await redis.get('text'));
});

/** Replies as RESP3 has them: maps are objects, doubles numbers. */
const mapping = step('mapping', async () => {
  if (PROTOCOL !== 3) return;
  const redis = client({ replyMapping: 'resp3' });
  await redis.zadd('mapped:zset', 1, 'one', 2.5, 'more');
  await redis.hset('mapped:hash', 'f', 'v');
  for (const again of ['cold', 'warm']) {
    say(`${again} zrange`, await redis.zrange('mapped:zset', 0, -1, 'WITHSCORES'));
    say(`${again} zscore`, [await redis.zscore('mapped:zset', 'more'), await redis.zmscore('mapped:zset', 'one', 'none')]);
    say(`${again} hgetall`, await redis.hgetall('mapped:hash'));
    say(`${again} zset of none`, await redis.zrange('none', 0, -1, 'WITHSCORES'));
  }
  say('config', await redis.config('GET', 'maxmemory'));
  say('xadd', await redis.xadd('mapped:stream', '1-1', 'f', 'v'));
  say('xread', await redis.xread('STREAMS', 'mapped:stream', '0'));
  say('xinfo', await redis.xinfo('STREAM', 'mapped:stream'));
  say('multi', await redis.multi().hgetall('mapped:hash').zscore('mapped:zset', 'more').exec());
  say('script', await redis.eval("redis.setresp(3) return {map={a='b'}}", 0));
});

run([connection, server, values, bytes, hot, pipelines, transactions, scripts, scans, subscriptions, announcements,
  tracking, blocking, streams, users, reconnection, prefixes, monitor, errors, mapping], async () => {
  const redis = client();
  await redis.flushall();
  await redis.script('FLUSH');
  await redis.function('FLUSH');
  redis.disconnect();
});
