'use strict';
// node-redis, as applications use it.

const redis = require('redis');
const { HOST, PORT, PROTOCOL, LOGIN, sleep, say, error, until, run } = require('./transcript');

const HOT_PASSES = 20;
// A connection that was lost is dialled again soon.
const RETRY_AFTER_MS = 20;

const opened = [];

/** A connected client as most are made; it is gone when its step is over. */
async function client(options = {}) {
  const made = make(options);
  await made.connect();
  return made;
}

function make(options = {}) {
  const made = redis.createClient(settings(options));
  // Errors reach whoever waits for a reply; an event that nobody hears would end the process.
  made.on('error', () => {});
  opened.push(made);
  return made;
}

function settings(options) {
  return { socket: { host: HOST, port: PORT, reconnectStrategy: () => RETRY_AFTER_MS }, RESP: PROTOCOL, ...LOGIN, ...options };
}

/** A step, and the end of every client that it opened. */
function step(name, body) {
  const run_step = async () => {
    await body();
    for (const one of opened.splice(0)) if (one.isOpen) one.destroy();
  };
  return Object.defineProperty(run_step, 'name', { value: name });
}

/** Until the server has a client that blocks, which is what the next write is for. */
async function somebody_blocks(one) {
  await until('somebody blocks', async () => !(await one.info('clients')).includes('blocked_clients:0\r'));
}

/** Collects what a subscription hears; `next` waits for one more. */
function ear() {
  const heard = [];
  return {
    listener: (...words) => heard.push(words),
    next: async () => {
      await until('a message', () => heard.length);
      return heard.shift();
    },
  };
}

const connection = step('connection', async () => {
  const states = [];
  const one = make({ name: 'workload', database: 3, clientInfoTag: 'mine' });
  for (const event of ['connect', 'ready', 'reconnecting', 'end']) one.on(event, () => states.push(event));
  say('open', [one.isOpen, one.isReady]);
  await one.connect();
  say('open', [one.isOpen, one.isReady]);
  say('ping', [await one.ping(), await one.ping('words')]);
  say('name', await one.clientGetName());
  const info = await one.clientInfo();
  say('info', [info.name, info.db, info.sub, info.psub, info.multi, info.user]);
  say('id', (await one.clientId()) === info.id);
  say('listed', (await one.clientList()).filter((other) => other.name === 'workload').length);
  await error('setinfo', () => one.sendCommand(['CLIENT', 'SETINFO', 'LIB-NAME', 'mine']));
  say('no evict', await one.clientNoEvict(true));
  say('tracking', await one.clientTrackingInfo());
  await one.set('where', 'three');
  await one.select(0);
  say('elsewhere', await one.get('where'));
  await one.select(3);
  say('back', [await one.get('where'), await one.get('where')]);
  await error('no such database', () => one.select(99));
  say('setname', [await one.clientSetName('renamed'), await one.clientGetName()]);
  await one.reset();
  say('reset', [await one.clientGetName(), await one.get('where')]);
  await one.close();
  say('states', states);
  await error('over', () => one.get('where'));
  const quitting = await client();
  say('quit', await quitting.quit());
  const other = await client();
  const { server, version, proto, mode, role, modules } = await other.hello();
  say('hello', [server, version, proto, mode, role, modules]);
  const by_url = redis.createClient({ url: `redis://${HOST}:${PORT}/3`, RESP: PROTOCOL, ...LOGIN });
  await by_url.connect();
  say('by url', await by_url.get('where'));
  by_url.destroy();
  const copy = one.duplicate();
  await copy.connect();
  say('duplicate', await copy.get('where'));
  copy.destroy();
  const pinging = await client({ pingInterval: 20 });
  await sleep(60);
  say('pinging', await pinging.get('none'));
});

const server = step('server', async () => {
  const one = await client();
  const info = await one.info();
  say('info', ['redis_version', 'redis_mode', 'role'].map((field) => info.match(`${field}:.*`)?.[0]));
  say('command', (await one.commandInfo(['GET', 'XREADGROUP'])).map(({ name, arity, flags }) => [name, arity, flags]));
  say('count', [await one.commandCount(), (await one.command()).length]);
  say('getkeys', await one.commandGetKeys(['MSET', 'a', '1', 'b', '2']));
  say('getkeys', await one.sendCommand(['COMMAND', 'GETKEYSANDFLAGS', 'SET', 'a', '1']));
  say('list', await one.commandList({ FILTERBY: { type: 'PATTERN', value: 'HG*' } }).then((names) => names.sort()));
  say('docs', Object.keys(await one.sendCommand(['COMMAND', 'DOCS', 'GET'])).length > 0);
  say('config', await one.configGet(['maxmemory*', 'timeout']));
  say('role', await one.role());
  say('dbsize', await one.dbSize());
  say('wait', await one.wait(0, 10));
  say('memory', await one.memoryUsage('none'));
  say('latency', await one.latencyLatest());
  say('time', (await one.time()).length);
  for (const words of [['CLUSTER', 'INFO'], ['CLUSTER', 'SLOTS'], ['CLUSTER', 'MYID'], ['READONLY'],
    ['SENTINEL', 'MASTERS'], ['MODULE', 'LIST'], ['JSON.GET', 'none'], ['CLIENT', 'MAINT_NOTIFICATIONS', 'ON']]) {
    await error(words.join(' '), () => one.sendCommand(words));
  }
  const cluster = redis.createCluster({ rootNodes: [settings({})] });
  cluster.on('error', () => {});
  await error('cluster', () => cluster.connect());
});

const values = step('values', async () => {
  const one = await client();
  say('set', await one.set('key', 'value'));
  for (const again of ['cold', 'warm', 'warmer']) say(again, await one.get('key'));
  const bytes = one.withTypeMapping({ [redis.RESP_TYPES.BLOB_STRING]: Buffer });
  say('bytes', [await bytes.get('key'), await bytes.get('key'), await one.get('key')]);
  say('nx', await one.set('key', 'other', { condition: 'NX' }));
  say('get', await one.set('key', 'other', { expiration: { type: 'EX', value: 100 }, GET: true }));
  say('ttl', await one.ttl('key').then((ttl) => ttl > 90 && ttl <= 100));
  say('getex', await one.getEx('key', { type: 'PERSIST' }));
  say('set', await one.set('key', '5'));
  say('incr', [await one.incr('key'), await one.incrBy('key', 10), await one.incrByFloat('key', 0.5), await one.decr('counter')]);
  say('append', [await one.append('key', '!'), await one.strLen('key'), await one.getRange('key', 0, 1), await one.get('key')]);
  say('mset', [await one.mSet([['a', '1'], ['b', 'two']]), await one.mSet({ c: '3' })]);
  for (const again of ['cold', 'warm']) say(`${again} mget`, await one.mGet(['a', 'b', 'c', 'none']));
  say('getdel', [await one.getDel('a'), await one.get('a')]);
  say('hset', [await one.hSet('hash', { f: 1, g: 'two' }), await one.hSet('hash', 'h', Buffer.from([0, 255]))]);
  for (const again of ['cold', 'warm']) {
    say(`${again} hgetall`, [await one.hGetAll('hash'), await bytes.hGetAll('hash'), await one.hGetAll('none')]);
    say(`${again} hmget`, [await one.hmGet('hash', ['f', 'none']), await one.hGet('hash', 'f'), await one.hGet('hash', 'none')]);
    say(`${again} hkeys`, [await one.hKeys('hash'), await one.hVals('hash'), await one.hLen('hash')]);
    say(`${again} hexists`, [await one.hExists('hash', 'f'), await one.hExists('hash', 'none')]);
    say(`${again} as a map`, await one.withTypeMapping({ [redis.RESP_TYPES.MAP]: Map }).hGetAll('hash'));
  }
  say('hincrby', [await one.hIncrBy('hash', 'f', 4), await one.hGet('hash', 'f'), await one.hDel('hash', 'g')]);
  say('hrandfield', (await one.hRandFieldCountWithValues('hash', 2)).length);
  say('rpush', await one.rPush('list', ['a', 'b', 'c']));
  for (const again of ['cold', 'warm']) {
    say(`${again} lrange`, [await one.lRange('list', 0, -1), await one.lLen('list'), await one.lIndex('list', 1)]);
    say(`${again} lpos`, [await one.lPos('list', 'c'), await one.lPos('list', 'none')]);
  }
  say('lmove', [await one.lMove('list', 'list', 'LEFT', 'RIGHT'), await one.lPopCount('list', 2), await one.rPop('list')]);
  say('list', [await one.lRange('list', 0, -1), await one.exists('list'), await one.type('list'), await one.lPop('list')]);
  say('sadd', await one.sAdd('set', ['a', 'b', 'c']));
  for (const again of ['cold', 'warm']) {
    say(`${again} smembers`, new Set(await one.sMembers('set')));
    say(`${again} sismember`, [await one.sIsMember('set', 'a'), await one.smIsMember('set', ['a', 'z'])]);
    say(`${again} sinter`, new Set(await one.sInter(['set', 'set'])));
  }
  say('zadd', await one.zAdd('zset', [{ score: 1, value: 'one' }, { score: 2.5, value: 'more' }, { score: Infinity, value: 'most' }]));
  for (const again of ['cold', 'warm']) {
    say(`${again} zrange`, [await one.zRange('zset', 0, -1), await one.zRangeWithScores('zset', 0, -1)]);
    say(`${again} by score`, await one.zRange('zset', '(1', '+inf', { BY: 'SCORE', LIMIT: { offset: 0, count: 1 } }));
    say(`${again} zscore`, [await one.zScore('zset', 'more'), await one.zScore('zset', 'none'), await one.zmScore('zset', ['one', 'none'])]);
    say(`${again} zrank`, [await one.zRank('zset', 'most'), await one.zRank('zset', 'none'), await one.zCount('zset', 1, 2)]);
  }
  say('zpopmin', [await one.zPopMin('zset'), await one.zPopMin('none'), await one.zIncrBy('zset', 1, 'more'), await one.zCard('zset')]);
  say('zunion', await one.zUnionWithScores(['zset', 'set']));
  say('geo', await one.geoAdd('geo', [{ longitude: 13.361389, latitude: 38.115556, member: 'Palermo' },
    { longitude: 15.087269, latitude: 37.502669, member: 'Catania' }]));
  for (const again of ['cold', 'warm']) {
    say(`${again} geosearch`, await one.geoSearchWith('geo', 'Palermo', { radius: 200, unit: 'km' }, ['WITHDIST', 'WITHCOORD']));
    say(`${again} geopos`, [await one.geoPos('geo', ['Palermo', 'none']), await one.geoDist('geo', 'Palermo', 'Catania', 'km')]);
  }
  say('pf', [await one.pfAdd('hll', ['a', 'b']), await one.pfCount('hll')]);
  say('bits', [await one.setBit('bits', 9, 1), await one.bitCount('bits'), await one.getBit('bits', 9)]);
  say('lcs', [await one.set('lcs', 'abcd'), await one.lcs('lcs', 'lcs'), await one.lcsLen('lcs', 'none')]);
  say('sort', await one.sort('set', { ALPHA: true, DIRECTION: 'DESC', LIMIT: { offset: 0, count: 2 } }));
  const dump = await one.withTypeMapping({ [redis.RESP_TYPES.BLOB_STRING]: Buffer }).dump('set');
  say('restore', [await one.restore('copy', 0, dump), new Set(await one.sMembers('copy')), await one.copy('b', 'copy2')]);
  say('rename', [await one.rename('copy2', 'renamed'), await one.get('renamed'), await one.get('copy2')]);
  say('expiry', await one.pExpire('renamed', 30));
  // For the cache alone: on a busy machine it may be over already.
  await one.get('renamed');
  await sleep(80);
  say('expired', [await one.get('renamed'), await one.get('renamed'), await one.pTTL('renamed')]);
  say('del', [await one.del(['b', 'none']), await one.unlink('c'), await one.mGet(['a', 'b', 'c'])]);
});

const binary = step('binary', async () => {
  const one = await client();
  const bytes = one.withTypeMapping({ [redis.RESP_TYPES.BLOB_STRING]: Buffer });
  const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  say('set', await one.set(every, every));
  say('get', [await bytes.get(every), await bytes.get(every), await one.get(every)]);
  say('unicode', [await one.set('ключ', '値 🎉'), await one.get('ключ'), await one.get('ключ')]);
  say('empty', [await one.set('', ''), await one.get(''), await one.get('')]);
  const large = 'x'.repeat(5_000_000);
  say('set large', await one.set('large', large));
  for (const again of ['cold', 'warm']) say(`${again} large`, (await one.get('large')) === large);
  say('middling', await one.set('middling', large.slice(0, 100_000)));
  for (const again of ['cold', 'warm']) say(`${again} middling`, (await one.get('middling')).length);
  const fields = Object.fromEntries(Array.from({ length: 5_000 }, (_, number) => [`field ${number}`, `value ${number}`]));
  say('hset', await one.hSet('large hash', fields));
  for (const again of ['cold', 'warm']) say(`${again} hgetall`, await one.hGetAll('large hash'));
});

const hot = step('hot', async () => {
  const [one, other] = [await client(), await client()];
  for (const version of ['1', '2']) {
    await one.mSet(Array.from({ length: 10 }, (_, number) => [`hot:${number}`, `${version} ${number}`]));
    await one.hSet('hot:hash', 'version', version);
    let wrong = 0;
    for (let pass = 0; pass < HOT_PASSES; pass += 1) {
      for (const reader of [one, other]) {
        for (let number = 0; number < 10; number += 1) {
          if ((await reader.get(`hot:${number}`)) !== `${version} ${number}`) wrong += 1;
        }
        if ((await reader.hGetAll('hot:hash')).version !== version) wrong += 1;
        // What is asked for in one turn of the event loop goes out together.
        const together = await Promise.all(Array.from({ length: 10 }, (_, number) => reader.get(`hot:${number}`)));
        wrong += together.filter((value, number) => value !== `${version} ${number}`).length;
      }
    }
    say('wrong', wrong);
  }
});

const transactions = step('transactions', async () => {
  const [one, other] = [await client(), await client()];
  say('multi', await one.multi().set('t', '1').get('t').incr('t').hGetAll('none').exec());
  say('pipeline', await one.multi().set('t', '1').get('t').incr('t').get('t').execAsPipeline());
  const failing = () => one.multi().set('t', 'text').incr('t').get('t');
  await error('fails inside', () => failing().exec());
  await failing().exec().catch((failure) => say('the replies', [failure.replies, failure.errorIndexes]));
  await failing().execAsPipeline().catch((failure) => say('the replies', [failure.replies, failure.errorIndexes]));
  await error('refused', () => one.multi().addCommand(['SET', 't']).get('t').exec());
  say('get', await one.get('t'));
  say('empty', await one.multi().exec());
  await one.set('t', '0');
  await one.watch('t');
  say('watched', [one.isWatching, await one.get('t')]);
  await other.set('t', '7');
  await error('conflict', () => one.multi().set('t', '4').exec());
  say('get', await one.get('t'));
  await one.watch(['t', 'none']);
  say('no conflict', await one.multi().set('t', '5').get('t').exec());
  await one.watch('t');
  await other.set('t', '6');
  await one.unwatch();
  say('unwatched', await one.multi().incr('t').exec());
  say('database', await one.multi().select(2).set('t', 'two').select(0).get('t').exec());
  say('typed', await one.multi().hSet('t:hash', 'f', 'v').hGetAll('t:hash').zAdd('t:zset', { score: 1, value: 'm' }).zScore('t:zset', 'm').exec());
  await one.set('contended', '0');
  const pool = one.createPool({ maximum: 4 });
  pool.on('error', () => {});
  await pool.connect();
  await Promise.all(Array.from({ length: 4 }, () => pool.execute(async (mine) => {
    for (let done = 0; done < 8;) {
      await mine.watch('contended');
      const value = Number(await mine.get('contended'));
      try {
        await mine.multi().set('contended', String(value + 1)).exec();
        done += 1;
      } catch (failure) {
        if (!(failure instanceof redis.WatchError)) throw failure;
      }
    }
  })));
  say('sum', await one.get('contended'));
  say('pooled', await Promise.all(Array.from({ length: 50 }, (_, number) => (number % 2 ? pool.get('t') : pool.incr('pooled')))).then(
    (replies) => replies.filter((_, number) => number % 2).every((reply) => reply === '7')));
  say('pooled', [await pool.get('pooled'), await pool.multi().incr('pooled').get('pooled').exec()]);
  pool.destroy();
});

const scripts = step('scripts', async () => {
  const add_to = redis.defineScript({
    SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    NUMBER_OF_KEYS: 1,
    parseCommand(parser, key, number) {
      parser.pushKey(key);
      parser.push(String(number));
    },
    transformReply: (reply) => reply,
  });
  const put = {
    NUMBER_OF_KEYS: 1,
    parseCommand(parser, key, value) {
      parser.pushKey(key);
      parser.push(value);
    },
    transformReply: (reply) => reply,
  };
  const one = await client({ scripts: { addTo: add_to }, functions: { mine: { put } } });
  // EVALSHA says NOSCRIPT, and node-redis sends the script.
  say('first', [await one.addTo('s', 5), await one.get('s')]);
  say('again', [await one.addTo('s', 5), await one.get('s'), await one.get('s')]);
  say('multi', await one.multi().addTo('s', 1).get('s').exec());
  await one.scriptFlush();
  say('loaded anew', [await one.addTo('s', 1), await one.get('s')]);
  const sha = await one.scriptLoad('return KEYS');
  say('load', [sha, await one.scriptExists([sha, 'f'.repeat(40)]), await one.evalSha(sha, { keys: ['a', 'b'] })]);
  await error('no script', () => one.evalSha('f'.repeat(40)));
  await error('fails', () => one.eval('return nil + 1'));
  await error('own words', () => one.eval("return redis.error_reply('MY words')"));
  say('types', await one.eval("return {1, 'two', {3}, false, redis.status_reply('FINE')}"));
  say('resp3', await one.eval("redis.setresp(3) return {map={a='b'}}"));
  say('double', await one.eval('redis.setresp(3) return {double=1.5}'));
  say('read only', await one.evalRo("return redis.call('GET', KEYS[1])", { keys: ['s'] }));
  say('undeclared', [await one.eval("return redis.call('SET', 's', 'by script')"), await one.get('s')]);
  say('function', await one.functionLoad(
    "#!lua name=mine\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)", { REPLACE: true }));
  say('fcall', [await one.mine.put('s', 'by function'), await one.get('s')]);
  say('functions', (await one.functionList()).map(({ library_name: name, engine }) => [name, engine]));
});

const scans = step('scans', async () => {
  const one = await client();
  const numbers = Array.from({ length: 300 }, (_, number) => number);
  await one.mSet(numbers.map((number) => [`scan:${number}`, String(number)]));
  await one.hSet('scanned:hash', numbers.flatMap((number) => [`f${number}`, String(number)]));
  await one.sAdd('scanned:set', numbers.map(String));
  await one.zAdd('scanned:zset', numbers.map((number) => ({ score: number, value: `m${number}` })));
  const all = async (iterator) => {
    const items = [];
    for await (const page of iterator) items.push(...page);
    return new Set(items);
  };
  say('scan', await all(one.scanIterator({ MATCH: 'scan:*', COUNT: 20 })));
  say('scan of a type', await all(one.scanIterator({ TYPE: 'hash', MATCH: 'scanned:*' })));
  say('hscan', await all(one.hScanIterator('scanned:hash', { MATCH: 'f1*' })));
  say('sscan', await all(one.sScanIterator('scanned:set', { COUNT: 50 })));
  say('zscan', await all(one.zScanIterator('scanned:zset')));
  say('keys', (await one.keys('scan:2*')).sort());
  say('randomkey', (await one.randomKey()) !== null);
});

const subscriptions = step('subscriptions', async () => {
  const [subscriber, publisher] = [await client({ name: 'subscriber' }), await client()];
  const [news, patterns, bytes, shard] = [ear(), ear(), ear(), ear()];
  await subscriber.subscribe(['news', 'more'], news.listener);
  await subscriber.pSubscribe('pattern:*', patterns.listener);
  await subscriber.subscribe('bytes', bytes.listener, true);
  say('active', subscriber.isPubSubActive);
  // In RESP3 the connection carries commands as well; in RESP2 it does not.
  await error('a command', () => subscriber.set('while subscribed', '1'));
  say('publish', await publisher.publish('news', 'one'));
  say('heard', await news.next());
  say('publish', await publisher.publish('pattern:x', 'two'));
  say('heard', await patterns.next());
  say('publish', await publisher.publish('bytes', Buffer.from([0, 255])));
  say('heard', await bytes.next());
  say('channels', (await publisher.pubSubChannels()).sort());
  say('numsub', [await publisher.pubSubNumSub(['news', 'none']), await publisher.pubSubNumPat()]);
  say('ping', await subscriber.ping('are you there'));
  await subscriber.unsubscribe('news');
  say('nobody', await publisher.publish('news', 'three'));
  // The connection dies; node-redis dials again, and subscribes again, by itself.
  const { id } = (await publisher.clientList()).find((one) => one.name === 'subscriber');
  say('kill', await publisher.clientKill({ filter: 'ID', id }));
  await until('it has subscribed again', async () => (await publisher.pubSubNumSub('more')).more === 1
    && (await publisher.pubSubNumPat()) === 1);
  say('publish', await publisher.publish('more', 'after'));
  say('heard', await news.next());
  await subscriber.unsubscribe();
  await subscriber.pUnsubscribe();
  say('active', subscriber.isPubSubActive);
  say('usable', [await subscriber.set('after', '1'), await subscriber.get('after')]);
  await subscriber.sSubscribe('shard', shard.listener);
  say('spublish', await publisher.sPublish('shard', 'three'));
  say('heard', await shard.next());
  say('shards', [await publisher.pubSubShardChannels(), await publisher.pubSubShardNumSub(['shard'])]);
  await subscriber.sUnsubscribe('shard');
  // A reader that is told to look finds what the news is about.
  const [changed, reader] = [ear(), await client()];
  await publisher.set('subject', '0');
  await subscriber.subscribe('changed', changed.listener);
  let stale = 0;
  for (let version = 1; version <= 20; version += 1) {
    await reader.get('subject');
    publisher.set('subject', String(version));
    publisher.publish('changed', String(version));
    await changed.next();
    if ((await reader.get('subject')) !== String(version)) stale += 1;
  }
  say('stale', stale);
});

const blocking = step('blocking', async () => {
  const [one, pusher] = [await client(), await client()];
  await pusher.rPush('queue', 'first');
  say('at once', await one.blPop('queue', 5));
  let waits = one.blPop(['none', 'queue'], 20);
  await somebody_blocks(pusher);
  say('rpush', await pusher.rPush('queue', ['a', 'b']));
  say('blpop', [await waits, await one.lRange('queue', 0, -1)]);
  waits = one.blMove('source', 'target', 'LEFT', 'RIGHT', 20);
  await somebody_blocks(pusher);
  await pusher.rPush('source', 'x');
  say('blmove', [await waits, await one.lRange('target', 0, -1)]);
  waits = one.bzPopMin('zqueue', 20);
  await somebody_blocks(pusher);
  await pusher.zAdd('zqueue', { score: 1.5, value: 'm' });
  say('bzpopmin', await waits);
  waits = one.blmPop(20, ['none', 'mqueue'], 'LEFT', { COUNT: 2 });
  await somebody_blocks(pusher);
  await pusher.rPush('mqueue', ['1', '2', '3']);
  say('blmpop', await waits);
  say('times out', [await one.blPop('none', 0.05), await one.brPop('none', 0.05)]);
  waits = one.blPop('turn', 20);
  const behind = one.get('none');
  await somebody_blocks(pusher);
  await pusher.rPush('turn', '1');
  say('in turn', [await waits, await behind]);
  const pool = one.createPool({ maximum: 3 });
  pool.on('error', () => {});
  await pool.connect();
  waits = pool.blPop('pool:queue', 20);
  await somebody_blocks(pusher);
  await pool.rPush('pool:queue', 'by another of the pool');
  say('pool', await waits);
  pool.destroy();
  const blocked = await client({ name: 'blocked' });
  waits = blocked.blPop('unblocked', 0);
  await somebody_blocks(pusher);
  const { id } = (await pusher.clientList()).find((other) => other.name === 'blocked');
  say('unblock', [await pusher.clientUnblock(id), await waits]);
  waits = blocked.blPop('unblocked', 0).catch((failure) => failure);
  await somebody_blocks(pusher);
  say('unblock', [await pusher.clientUnblock(id, 'ERROR'), await waits]);
});

const streams = step('streams', async () => {
  const [one, adder] = [await client(), await client()];
  for (let number = 1; number <= 5; number += 1) await one.xAdd('stream', `${number}-1`, { number: String(number) });
  say('xlen', await one.xLen('stream'));
  for (const again of ['cold', 'warm']) {
    say(`${again} xrange`, await one.xRange('stream', '-', '+'));
    say(`${again} xrevrange`, await one.xRevRange('stream', '+', '-', { COUNT: 2 }));
  }
  say('xread', await one.xRead({ key: 'stream', id: '2-1' }, { COUNT: 2 }));
  say('xread of none', await one.xRead({ key: 'stream', id: '$' }));
  say('group', await one.xGroupCreate('stream', 'group', '0'));
  await error('group again', () => one.xGroupCreate('stream', 'group', '0'));
  say('alice', await one.xReadGroup('group', 'alice', { key: 'stream', id: '>' }, { COUNT: 3 }));
  say('bob', await one.xReadGroup('group', 'bob', { key: 'stream', id: '>' }, { COUNT: 1 }));
  say('ack', await one.xAck('stream', 'group', '1-1'));
  say('pending', await one.xPending('stream', 'group'));
  say('pending', (await one.xPendingRange('stream', 'group', '-', '+', 9)).map(({ id, consumer, deliveriesCounter }) => [id, consumer, deliveriesCounter]));
  say('claim', await one.xClaim('stream', 'group', 'bob', 0, '2-1'));
  say('autoclaim', await one.xAutoClaim('stream', 'group', 'carol', 0, '0-0', { COUNT: 1 }));
  say('groups', await one.xInfoGroups('stream'));
  const { length, groups } = await one.xInfoStream('stream');
  say('info', [length, groups]);
  let waits = one.xRead({ key: 'stream', id: '$' }, { BLOCK: 20_000 });
  await somebody_blocks(adder);
  await adder.xAdd('stream', '9-1', { late: 'yes' });
  say('blocked', await waits);
  await one.xReadGroup('group', 'alice', { key: 'stream', id: '>' });
  waits = one.xReadGroup('group', 'alice', { key: 'stream', id: '>' }, { BLOCK: 20_000 });
  await somebody_blocks(adder);
  await adder.xAdd('stream', '10-1', { later: 'yes' });
  say('blocked', await waits);
  say('times out', await one.xRead({ key: 'stream', id: '$' }, { BLOCK: 30 }));
  say('trim', [await one.xTrim('stream', 'MAXLEN', 2), await one.xDel('stream', '9-1'), await one.xRange('stream', '-', '+')]);
});

const users = step('users', async () => {
  const one = await client();
  say('setuser', await one.aclSetUser('alice', ['reset', 'on', '>secret', '~her:*', '&her:*', '+@all', '-@admin', '+acl|whoami']));
  const alice = await client({ username: 'alice', password: 'secret', name: "alice's" });
  say('whoami', [await alice.aclWhoAmI(), await alice.clientGetName()]);
  say('own', [await alice.set('her:key', '1'), await alice.get('her:key'), await alice.get('her:key')]);
  await one.set('his:key', 'secret');
  say('his', [await one.get('his:key'), await one.get('his:key')]);
  await error('foreign', () => alice.get('his:key'));
  await error('foreign among own', () => alice.mGet(['her:key', 'his:key']));
  await error('admin', () => alice.configGet('*'));
  await error('foreign channel', () => alice.publish('news', 'x'));
  await error('foreign channel', () => alice.subscribe('news', () => {}));
  await error('foreign in a transaction', () => alice.multi().get('his:key').exec());
  for (const [name, login] of [['wrong password', { username: 'alice', password: 'guess' }], ['nobody', { username: 'nobody', password: 'x' }]]) {
    const refused = make({ ...login, socket: { host: HOST, port: PORT, reconnectStrategy: false } });
    const told = new Promise((resolve) => { refused.once('error', resolve); });
    await error(name, () => refused.connect());
    say(`${name}, the event`, await told);
  }
  say('auth', await alice.auth({ username: 'alice', password: 'secret' }));
  await error('auth', () => alice.auth({ username: 'alice', password: 'guess' }));
  say('still', await alice.get('her:key'));
  say('getuser', (await one.aclGetUser('alice')).keys);
  say('deluser', await one.aclDelUser('alice'));
});

const reconnection = step('reconnection', async () => {
  const [one, killer] = [await client({ name: 'victim', database: 2 }), await client()];
  const states = [];
  for (const event of ['reconnecting', 'ready']) one.on(event, () => states.push(event));
  say('set', await one.set('survivor', '1'));
  const id = await one.clientId();
  say('kill', await killer.clientKill({ filter: 'ID', id }));
  await until('it is ready again', () => states.includes('ready'));
  say('states', states);
  say('the same database and name', [await one.get('survivor'), await one.clientGetName()]);
  say('another connection', (await one.clientId()) > id);
  // A command that was given before the client knows of the loss waits for the next connection.
  await killer.clientKill({ filter: 'ID', id: await one.clientId() });
  await until('it is ready again', () => states.filter((state) => state === 'ready').length === 2);
  say('queued', await Promise.all([one.incr('survivor'), one.get('survivor')]));
  const strict = await client({ disableOfflineQueue: true });
  say('strict', await strict.get('none'));
  const offline = make({ disableOfflineQueue: true });
  await error('offline', () => offline.get('none'));
  const patient = await client({ commandOptions: { timeout: 20_000 } });
  say('patient', await patient.get('none'));
  const gone = one.withAbortSignal(AbortSignal.abort());
  await error('aborted', () => gone.get('survivor'));
});

/** node-redis's own cache, for RESP3: a tracked connection, told of what others change. */
const client_side_caching = step('client_side_caching', async () => {
  if (PROTOCOL !== 3) return;
  const cache = new redis.BasicClientSideCache({ ttl: 0, maxEntries: 0, evictPolicy: 'LRU' });
  const [caching, other] = [await client({ clientSideCache: cache }), await client()];
  await other.set('tracked', 'old');
  say('get', [await caching.get('tracked'), await caching.get('tracked'), await caching.hGetAll('none')]);
  const { hitCount: hits, missCount: misses } = cache.stats();
  say('stats', [hits, misses]);
  await other.set('tracked', 'new');
  say('seen', await until('it sees the change', async () => (await caching.get('tracked')) === 'new'));
  say('own', [await caching.set('tracked', 'own'), await until('its own write', async () => (await caching.get('tracked')) === 'own')]);
  await other.flushAll();
  say('flushed', await until('it sees that all is gone', async () => (await caching.get('tracked')) === null));
  const invalidated = ear();
  const told = await client({ emitInvalidate: true });
  told.on('invalidate', invalidated.listener);
  await told.get('told');
  await other.set('told', '1');
  say('told', await invalidated.next());
  const pool = redis.createClientPool(settings({}), { clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: 'LRU' }, minimum: 2 });
  pool.on('error', () => {});
  await pool.connect();
  say('pool', await Promise.all(Array.from({ length: 20 }, () => pool.get('told'))));
  await other.set('told', '2');
  say('seen', await until('the pool sees the change', async () => (await pool.get('told')) === '2'));
  pool.destroy();
});

const monitor = step('monitor', async () => {
  const [one, other] = [await client(), await client()];
  let seen = false;
  await one.monitor((line) => { seen ||= line.endsWith('"SET" "monitored" "value"'); });
  say('set', await other.set('monitored', 'value'));
  await until('it is seen', () => seen);
  await one.reset();
  say('usable', await one.get('monitored'));
});

const errors = step('errors', async () => {
  const one = await client();
  await one.set('text', 'x');
  await one.get('text');
  await error('wrong type', () => one.lPush('text', '1'));
  await error('wrong type of a read', () => one.hGetAll('text'));
  await error('wrong type of a read again', () => one.hGetAll('text'));
  await error('no number', () => one.incr('text'));
  await error('arguments', () => one.sendCommand(['GET']));
  await error('unknown', () => one.sendCommand(['NOSUCH', 'a', 'b']));
  await error('syntax', () => one.sendCommand(['SET', 'text', 'x', 'NOSUCH']));
  await error('no key', () => one.rename('none', 'text'));
  await error('newer than the server', () => one.hExpire('text', 'f', 1));
  await error('no argument', () => one.set('text', null));
  say('usable', await one.get('text'));
});

run([connection, server, values, binary, hot, transactions, scripts, scans, subscriptions, blocking, streams, users,
  reconnection, client_side_caching, monitor, errors], async () => {
  const one = await client();
  await one.flushAll();
  await one.scriptFlush();
  await one.functionFlush();
  one.destroy();
});
