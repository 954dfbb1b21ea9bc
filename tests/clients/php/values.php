<?php

// Steps about data: every type, what is large, binary, serialized, about to expire, or of the wrong type.

declare(strict_types=1);

const HOT_PASSES = 10;

/** What a cache is for: the same few reads, again and again, by two programs. And then a change. */
function hot(): void
{
    $redis = client();
    $other = client();
    $reads = function (Redis $redis): array {
        $seen = [];
        for ($number = 0; $number < 10; $number++) {
            $seen[] = $redis->get("hot:$number");
        }
        array_push(
            $seen,
            $redis->get('hot:missing'),
            $redis->mGet(['hot:0', 'hot:1', 'hot:missing', 'hot:9']),
            by_key($redis->hGetAll('hot:hash')),
            $redis->hGet('hot:hash', 'field'),
            $redis->hMGet('hot:hash', ['field', 'none']),
            $redis->lRange('hot:list', 0, -1),
            $redis->zRange('hot:zset', 0, -1, true),
            $redis->zScore('hot:zset', 'member'),
            $redis->sCard('hot:set'),
            $redis->sIsMember('hot:set', '1'),
            $redis->strlen('hot:1'),
            $redis->exists('hot:1'),
        );
        return $seen;
    };
    foreach (['1', '2'] as $version) {
        $many = [];
        for ($number = 0; $number < 10; $number++) {
            $many["hot:$number"] = "$version:$number";
        }
        say('write', [
            $redis->mSet($many),
            $redis->hMSet('hot:hash', ['field' => $version, 'other' => 'value']),
            $redis->del('hot:list'),
            $redis->rPush('hot:list', $version, 'b', 'c'),
            $redis->zAdd('hot:zset', (float) $version, 'member'),
            $redis->sAdd('hot:set', $version),
        ]);
        $first = $reads($redis);
        say('read', $first);
        $different = 0;
        for ($pass = 0; $pass < HOT_PASSES; $pass++) {
            foreach ([$redis, $other] as $reader) {
                $different += $reads($reader) !== $first ? 1 : 0;
            }
        }
        say('different', $different);
    }
}

function strings(): void
{
    $redis = client();
    say('set', $redis->set('greeting', 'hello'));
    foreach (['cold', 'warm', 'warmer'] as $again) {
        say($again, $redis->get('greeting'));
    }
    say('nil', $redis->get('missing'));
    say('set nx', $redis->set('greeting', 'other', ['nx']));
    say('set xx ex', $redis->set('greeting', 'newer', ['xx', 'ex' => 100]));
    say('read your write', $redis->get('greeting'));
    say('getset', $redis->getSet('greeting', 'newest'));
    say('setnx', [$redis->setnx('greeting', 'no'), $redis->setnx('fresh', 'yes')]);
    say('append', $redis->append('greeting', '!'));
    say('strlen', $redis->strlen('greeting'));
    say('getrange', $redis->getRange('greeting', 1, 3));
    say('setrange', [$redis->setRange('greeting', 2, 'XX'), $redis->get('greeting')]);
    say('msetnx', [$redis->msetnx(['greeting' => 1, 'new' => 2]), $redis->mGet(['greeting', 'new'])]);
    say('incr', [$redis->incr('counter'), $redis->incrBy('counter', 5), $redis->decr('counter')]);
    say('incrbyfloat', $redis->incrByFloat('float', 1.5));
    say('bits', [$redis->setBit('bits', 9, true), $redis->getBit('bits', 9), $redis->bitCount('bits'), $redis->bitpos('bits', 1)]);
    say('bitop', [$redis->bitOp('NOT', 'inverse', 'bits'), $redis->get('inverse')]);
    say('type', [$redis->type('counter'), $redis->type('missing')]);
    say('rename', [$redis->rename('counter', 'renamed'), $redis->get('counter'), $redis->get('renamed')]);
    say('renamenx', $redis->renameNx('renamed', 'greeting'));
    say('dump', $redis->restore('restored', 0, $redis->dump('renamed')));
    say('restored', $redis->get('restored'));
    say('copied', [$redis->rawCommand('COPY', 'restored', 'copied'), $redis->get('copied')]);
    say('raw', $redis->rawCommand('GETDEL', 'copied'));
    say('exists', [$redis->exists('restored', 'copied', 'restored'), $redis->exists('copied')]);
    say('touch', $redis->rawCommand('TOUCH', 'restored', 'copied'));
    say('del', $redis->del(['restored', 'copied']));
    say('unlink', [$redis->unlink('renamed'), $redis->get('renamed')]);
    say('object', [$redis->object('encoding', 'greeting'), $redis->object('refcount', 'greeting')]);
}

function collections(): void
{
    $redis = client();
    say('hset', [$redis->hSet('hash', 'name', 'Ada'), $redis->hSetNx('hash', 'name', 'Bob'), $redis->hMSet('hash', ['born' => 1815, 'pi' => 3.14])]);
    foreach (['cold', 'warm'] as $again) {
        say("$again hash", [
            by_key($redis->hGetAll('hash')), $redis->hGet('hash', 'name'), $redis->hMGet('hash', ['name', 'none']),
            sorted($redis->hKeys('hash')), sorted($redis->hVals('hash')), $redis->hLen('hash'),
            $redis->hExists('hash', 'name'), $redis->hStrLen('hash', 'name'), $redis->hGetAll('missing'),
        ]);
    }
    say('hincr', [$redis->hIncrBy('hash', 'born', 1), $redis->hIncrByFloat('hash', 'pi', 0.5), $redis->hDel('hash', 'name', 'none')]);
    say('hash after', by_key($redis->hGetAll('hash')));
    say('push', [$redis->rPush('list', 'a', 'b', 'c'), $redis->lPush('list', 'z'), $redis->lPushx('none', 'x'), $redis->rPushx('list', 'd')]);
    foreach (['cold', 'warm'] as $again) {
        say("$again list", [$redis->lRange('list', 0, -1), $redis->lIndex('list', 1), $redis->lLen('list'), $redis->lIndex('list', 99)]);
    }
    say('list', [
        $redis->lInsert('list', Redis::BEFORE, 'b', 'between'), $redis->lSet('list', 0, 'Z'), $redis->lRem('list', 'c', 1),
        $redis->lTrim('list', 0, 3), $redis->rpoplpush('list', 'other'), $redis->lPop('list'), $redis->rPop('list'),
        $redis->lRange('list', 0, -1), $redis->lRange('other', 0, -1),
    ]);
    say('sets', [$redis->sAdd('set', 'a', 'b', 'c'), $redis->sAddArray('set2', ['b', 'c', 'd'])]);
    foreach (['cold', 'warm'] as $again) {
        say("$again set", [
            sorted($redis->sMembers('set')), $redis->sIsMember('set', 'a'), $redis->sMisMember('set', 'a', 'z'),
            $redis->sCard('set'), sorted($redis->sInter('set', 'set2')), sorted($redis->sUnion('set', 'set2')),
            sorted($redis->sDiff('set', 'set2')),
        ]);
    }
    say('stores', [$redis->sInterStore('inter', 'set', 'set2'), $redis->sUnionStore('union', 'set', 'set2'), $redis->sMove('set', 'set2', 'a'), $redis->sRem('set', 'b')]);
    say('random', [$redis->sRandMember('set'), $redis->sPop('set'), $redis->sMembers('set')]);
    say('zadd', [$redis->zAdd('zset', 1, 'one', 2.5, 'two', 3, 'three'), $redis->zAdd('zset', ['NX'], 9, 'one'), $redis->zIncrBy('zset', 1, 'one')]);
    foreach (['cold', 'warm'] as $again) {
        say("$again zset", [
            $redis->zRange('zset', 0, -1), $redis->zRange('zset', 0, -1, true), $redis->zRevRange('zset', 0, 0),
            $redis->zRangeByScore('zset', '2.5', '+inf', ['withscores' => true, 'limit' => [0, 1]]),
            $redis->zScore('zset', 'two'), $redis->zScore('zset', 'none'), $redis->zRank('zset', 'two'),
            $redis->zRevRank('zset', 'two'), $redis->zCard('zset'), $redis->zCount('zset', '-inf', '2'),
        ]);
    }
    say('zset', [$redis->zUnionStore('zunion', ['zset', 'zset'], [1, 2], 'MAX'), $redis->zRange('zunion', 0, -1, true), $redis->zPopMin('zset'), $redis->zRemRangeByRank('zset', 0, 0), $redis->zRange('zset', 0, -1)]);
    say('lex', [$redis->zAdd('lex', 0, 'a', 0, 'b', 0, 'c'), $redis->zRangeByLex('lex', '[b', '+'), $redis->zLexCount('lex', '-', '+')]);
    say('geo', [$redis->geoAdd('geo', 13.361389, 38.115556, 'Palermo', 15.087269, 37.502669, 'Catania'), $redis->geoDist('geo', 'Palermo', 'Catania', 'km'), $redis->geoHash('geo', 'Palermo')]);
    foreach (['cold', 'warm'] as $again) {
        say("$again geo", [$redis->geoPos('geo', 'Palermo', 'none'), $redis->geoRadius('geo', 15, 37, 200, 'km', ['WITHDIST', 'ASC'])]);
    }
    say('hyperloglog', [$redis->pfAdd('log', ['a', 'b']), $redis->pfCount('log'), $redis->pfMerge('merged', ['log']), $redis->pfCount('merged')]);
    say('sort', [$redis->rPush('sorted', 3, 1, 2), $redis->sort('sorted'), $redis->sort('sorted', ['sort' => 'desc', 'store' => 'kept']), $redis->lRange('kept', 0, -1)]);
}

function expiry(): void
{
    $redis = client();
    say('setex', [$redis->setex('brief', 100, 'value'), $redis->psetex('briefer', 100_000, 'value')]);
    say('ttl', [$redis->ttl('brief') > 90, $redis->pttl('briefer') > 90_000, $redis->ttl('missing')]);
    say('warm', [$redis->get('brief'), $redis->get('brief')]);
    say('persist', [$redis->persist('brief'), $redis->ttl('brief')]);
    say('expire', [$redis->expire('brief', 100), $redis->expireAt('brief', 4_000_000_000), $redis->expire('missing', 1)]);
    say('at once', [$redis->pExpire('brief', 0), $redis->get('brief')]);
    $redis->psetex('shortest', 50, 'value');
    until(fn () => $redis->get('shortest') === false);
    say('gone', [$redis->get('shortest'), $redis->exists('shortest')]);
}

/** What phpredis does to values on the way: a serializer, a prefix for keys, compression. */
function serialized(): void
{
    $value = ['name' => 'Ada', 'list' => [1, 2.5, true, null], 'text' => "\0binary\xff"];
    foreach (['php' => Redis::SERIALIZER_PHP, 'igbinary' => Redis::SERIALIZER_IGBINARY, 'json' => Redis::SERIALIZER_JSON] as $name => $serializer) {
        $redis = client([Redis::OPT_SERIALIZER => $serializer, Redis::OPT_PREFIX => "$name:"]);
        $kept = $name === 'json' ? ['name' => 'Ada', 'list' => [1, 2.5, true, null]] : $value;
        say("$name set", $redis->set('value', $kept));
        foreach (['cold', 'warm'] as $again) {
            say("$name $again", $redis->get('value') === $kept);
        }
        say("$name hash", [$redis->hSet('hash', 'field', $kept), $redis->hGetAll('hash') === ['field' => $kept]]);
        say("$name list", [$redis->rPush('list', $kept, 'plain'), $redis->lRange('list', 0, -1) === [$kept, 'plain']]);
        say("$name mget", $redis->mGet(['value', 'none']) === [$kept, false]);
        say("$name keys", sorted($redis->keys('*')));
        say("$name raw", client()->get("$name:value"));
    }
}

function binary(): void
{
    $redis = client();
    $every = implode('', array_map('chr', range(0, 255)));
    say('every byte', [$redis->set($every, "$every\r\n$every"), $redis->get($every) === "$every\r\n$every", $redis->get($every) === "$every\r\n$every"]);
    say('empty', [$redis->set('', ''), $redis->get(''), $redis->get('')]);
    foreach ([1 << 14, 1 << 18, 3 << 20] as $size) {
        $large = str_repeat("0123456789\r\n\0\xff", intdiv($size, 14));
        say("large $size", $redis->set("large:$size", $large));
        foreach (['cold', 'warm'] as $again) {
            say("$again $size", $redis->get("large:$size") === $large);
        }
    }
    $many = [];
    for ($number = 0; $number < 5000; $number++) {
        $many["many:$number"] = "value $number";
    }
    say('mset', $redis->mSet($many));
    foreach (['cold', 'warm'] as $again) {
        say("$again mget", $redis->mGet(array_keys($many)) === array_values($many));
    }
    say('hash', $redis->hMSet('many', $many));
    foreach (['cold', 'warm'] as $again) {
        say("$again hgetall", by_key($redis->hGetAll('many')) === by_key($many));
    }
}

/** Iterators, with phpredis's two ways of treating empty pages. */
function scans(): void
{
    $redis = client();
    $redis->flushDB();
    $pipe = $redis->pipeline();
    for ($number = 0; $number < 500; $number++) {
        $pipe->set("scanned:$number", $number)->sAdd('scan:set', "member $number")->hSet('scan:hash', "field $number", $number)
            ->zAdd('scan:zset', $number, "member $number");
    }
    say('filled', count($pipe->exec()));
    foreach ([Redis::SCAN_NORETRY, Redis::SCAN_RETRY] as $mode) {
        $redis->setOption(Redis::OPT_SCAN, $mode);
        $seen = [];
        $cursor = null;
        while (($page = $redis->scan($cursor, 'scanned:*', 50)) !== false) {
            array_push($seen, ...$page);
        }
        $seen = sorted(array_unique($seen));
        say("scan $mode", [count($seen), md5(implode(',', $seen))]);
        foreach (['sScan' => 'scan:set', 'hScan' => 'scan:hash', 'zScan' => 'scan:zset'] as $method => $key) {
            $seen = [];
            $cursor = null;
            while (($page = $redis->$method($key, $cursor, '*1*', 50)) !== false) {
                foreach ($page as $name => $value) {
                    $seen[$method === 'sScan' ? $value : $name] = $value;
                }
            }
            ksort($seen);
            say("$method $mode", [count($seen), md5(serialize($seen))]);
        }
    }
    say('dbsize', $redis->dbSize());
    say('random', str_contains((string) $redis->randomKey(), 'scan'));
}

/** Errors: phpredis answers false and keeps the words, or throws. */
function wrong(): void
{
    $redis = client();
    $redis->set('string', 'value');
    failure($redis, 'wrong type', fn () => $redis->lPush('string', 'x'));
    failure($redis, 'wrong read', fn () => $redis->lRange('string', 0, -1));
    failure($redis, 'again', fn () => $redis->lRange('string', 0, -1));
    failure($redis, 'no number', fn () => $redis->incr('string'));
    failure($redis, 'unknown', fn () => $redis->rawCommand('NOSUCH', 'a'));
    failure($redis, 'arity', fn () => $redis->rawCommand('GET'));
    failure($redis, 'no key', fn () => $redis->rename('missing', 'x'));
    failure($redis, 'bad timeout', fn () => $redis->rawCommand('SET', 'string', 'x', 'EX', '0'));
    failure($redis, 'bad config', fn () => $redis->config('SET', 'nosuch', '1'));
    failure($redis, 'database', fn () => $redis->select(99));
    say('usable', $redis->get('string'));
}
