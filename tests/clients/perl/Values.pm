package Values;

# Steps about data: every type, what is large, binary, about to expire, or of the wrong type.

use v5.36;

use Library;
use Redis::Hash;
use Redis::List;

use constant HOT_PASSES => 15;

our @STEPS = (
    hot => \&hot, strings => \&strings, collections => \&collections, tied_variables => \&tied_variables, expiry => \&expiry,
    binary => \&binary, scans => \&scans, wrong => \&wrong,
);

sub read_hot ($redis) {
    return Library::written([
        (map { scalar $redis->get("hot:$_") } 0 .. 9), scalar $redis->get('hot:missing'),
        [$redis->mget('hot:0', 'hot:1', 'hot:missing')], {$redis->hgetall('hot:hash')}, scalar $redis->hget('hot:hash', 'field'),
        [$redis->hmget('hot:hash', 'field', 'none')], [$redis->lrange('hot:list', 0, -1)],
        [$redis->zrange('hot:zset', 0, -1, 'WITHSCORES')], scalar $redis->zscore('hot:zset', 'member'), scalar $redis->scard('hot:set'),
        scalar $redis->sismember('hot:set', 1), scalar $redis->strlen('hot:1'), scalar $redis->exists('hot:1'),
    ]);
}

# What a cache is for: the same few reads, again and again, by two programs. And then a change.
sub hot {
    my ($redis, $other) = (client(), client());
    for my $version (1, 2) {
        note 'write', $redis->mset(map { ("hot:$_", "$version:$_") } 0 .. 9),
            $redis->hset('hot:hash', 'field', $version), $redis->hset('hot:hash', 'other', 'value'), $redis->del('hot:list'),
            $redis->rpush('hot:list', $version, 'b', 'c'), $redis->zadd('hot:zset', $version, 'member'), $redis->sadd('hot:set', $version);
        my $first = read_hot($redis);
        note 'read', $first;
        note 'different', scalar grep { read_hot($_) ne $first } ($redis, $other) x HOT_PASSES;
    }
}

sub strings {
    my $redis = client();
    note 'set', $redis->set('greeting', 'hello');
    note $_, $redis->get('greeting') for qw(cold warm warmer);
    note 'nil', $redis->get('missing');
    note 'set nx', $redis->set('greeting', 'other', 'NX');
    note 'set xx', $redis->set('greeting', 'newer', 'XX', 'EX', 100);
    note 'read your write', $redis->get('greeting');
    note 'getset', $redis->getset('greeting', 'newest');
    note 'append', $redis->append('greeting', '!'), $redis->strlen('greeting'), $redis->getrange('greeting', 1, 3);
    note 'setrange', $redis->setrange('greeting', 2, 'XX'), $redis->get('greeting');
    note 'msetnx', $redis->msetnx('greeting', 1, 'new', 2), $redis->mget('greeting', 'new') for 1, 2;
    note 'incr', $redis->incr('counter'), $redis->incrby('counter', 5), $redis->decr('counter'), $redis->incrbyfloat('float', 1.5);
    note 'bits', $redis->setbit('bits', 9, 1), $redis->getbit('bits', 9), $redis->bitcount('bits'), $redis->bitop('NOT', 'inverse', 'bits'), $redis->get('inverse');
    note 'getdel', $redis->getdel('float'), $redis->get('float');
    note 'rename', $redis->rename('counter', 'renamed'), $redis->get('counter'), $redis->get('renamed');
    note 'copy', $redis->copy('renamed', 'copied'), $redis->get('copied'), $redis->type('copied'), $redis->type('missing');
    note 'dump', $redis->restore('restored', 0, scalar $redis->dump('copied')), $redis->get('restored');
    note 'exists', $redis->exists('restored'), $redis->exists('missing');
    note 'del', $redis->del('restored', 'missing'), $redis->unlink('copied'), $redis->get('copied');
    note 'object', $redis->object('ENCODING', 'greeting');
}

sub collections {
    my $redis = client();
    note 'hset', $redis->hset('hash', 'name', 'Ada'), $redis->hmset('hash', 'born', 1815, 'pi', 3.14), $redis->hsetnx('hash', 'name', 'x');
    for (1, 2) {
        note 'hash', {$redis->hgetall('hash')}, $redis->hget('hash', 'name'), $redis->hmget('hash', 'name', 'none');
        note 'hash', sort($redis->hkeys('hash')), sort($redis->hvals('hash')), $redis->hlen('hash'), $redis->hexists('hash', 'name');
        # In scalar context Redis.pm answers with references.
        note 'hash', scalar $redis->hmget('hash', 'name', 'none'), scalar $redis->hgetall('missing');
    }
    note 'hincr', $redis->hincrby('hash', 'born', 1), $redis->hdel('hash', 'name', 'none'), {$redis->hgetall('hash')};
    note 'push', $redis->rpush('list', qw(a b c)), $redis->lpush('list', 'z'), $redis->lpushx('none', 'x');
    note 'list', [$redis->lrange('list', 0, -1)], $redis->lindex('list', 1), $redis->llen('list'), $redis->lindex('list', 99) for 1, 2;
    note 'list', $redis->linsert('list', 'BEFORE', 'b', 'between'), $redis->lset('list', 0, 'Z'), $redis->lrem('list', 1, 'c'),
        $redis->rpoplpush('list', 'other'), $redis->lpop('list'), $redis->rpop('list'), [$redis->lrange('list', 0, -1)], [$redis->lrange('other', 0, -1)];
    note 'sadd', $redis->sadd('set', qw(a b c)), $redis->sadd('set2', qw(b c d));
    for (1, 2) {
        note 'set', sort($redis->smembers('set')), $redis->sismember('set', 'a'), $redis->smismember('set', 'a', 'z'), $redis->scard('set');
        note 'set', [sort $redis->sinter('set', 'set2')], [sort $redis->sunion('set', 'set2')], [sort $redis->sdiff('set', 'set2')];
    }
    note 'stores', $redis->sinterstore('inter', 'set', 'set2'), $redis->smove('set', 'set2', 'a'), $redis->srem('set', 'b'), $redis->srandmember('set'), $redis->spop('set');
    note 'zadd', $redis->zadd('zset', 1, 'one', 2.5, 'two', 3, 'three'), $redis->zadd('zset', 'NX', 9, 'one'), $redis->zincrby('zset', 1, 'one');
    for (1, 2) {
        note 'zset', [$redis->zrange('zset', 0, -1)], [$redis->zrange('zset', 0, -1, 'WITHSCORES')], [$redis->zrevrange('zset', 0, 0)];
        note 'zset', $redis->zrangebyscore('zset', 2.5, '+inf', 'LIMIT', 0, 1), $redis->zscore('zset', 'two'), $redis->zscore('zset', 'none'),
            $redis->zrank('zset', 'two'), $redis->zcard('zset'), $redis->zcount('zset', '-inf', 2);
    }
    note 'zstores', $redis->zunionstore('zunion', 2, 'zset', 'zset', 'WEIGHTS', 1, 2), $redis->zrange('zunion', 0, -1, 'WITHSCORES'), $redis->zpopmin('zset'), $redis->zrange('zset', 0, -1);
    note 'geo', $redis->geoadd('geo', 13.361389, 38.115556, 'Palermo'), $redis->geohash('geo', 'Palermo', 'none') for 1, 2;
    note 'hyperloglog', $redis->pfadd('log', 'a', 'b'), $redis->pfcount('log');
    note 'sort', $redis->rpush('sorted', 3, 1, 2), $redis->sort('sorted'), $redis->sort('sorted', 'DESC', 'STORE', 'kept'), $redis->lrange('kept', 0, -1);
}

# Perl's own arrays and hashes, kept in Redis.
sub tied_variables {
    my %login = defined $ENV{REDIS_USERNAME} ? (username => $ENV{REDIS_USERNAME}, password => $ENV{REDIS_PASSWORD}) : ();
    my %where = (server => "$ENV{REDIS_HOST}:$ENV{REDIS_PORT}", %login);
    tie my @list, 'Redis::List', 'tied:list', %where;
    push @list, qw(a b c);
    unshift @list, 'z';
    note 'list', scalar @list, $list[1], [@list], pop @list, shift @list, [@list];
    $list[0] = 'changed';
    note 'list', [@list], client()->lrange('tied:list', 0, -1) for 1, 2;
    tie my %hash, 'Redis::Hash', 'tied:hash', %where;
    @hash{qw(one two three)} = (1 .. 3);
    note 'hash', $hash{two}, $hash{two}, $hash{none}, sort keys %hash;
    delete $hash{one};
    note 'hash', exists $hash{one}, exists $hash{two}, sort(keys %hash), client()->get('tied:hash:three');
    untie @list;
    untie %hash;
}

sub expiry {
    my $redis = client();
    note 'setex', $redis->setex('brief', 100, 'value'), $redis->psetex('briefer', 100_000, 'value');
    note 'ttl', $redis->ttl('brief') > 90, $redis->pttl('briefer') > 90_000, $redis->ttl('missing');
    note 'warm', $redis->get('brief') for 1, 2;
    note 'persist', $redis->persist('brief'), $redis->ttl('brief'), $redis->expire('brief', 100), $redis->expireat('brief', 4_000_000_000);
    note 'at once', $redis->pexpire('brief', 0), $redis->get('brief');
    $redis->psetex('shortest', 50, 'value');
    until_true(sub { !defined $redis->get('shortest') });
    note 'gone', $redis->get('shortest'), $redis->exists('shortest');
}

sub binary {
    my $redis = client();
    my $every = join '', map { chr } 0 .. 255;
    note 'every byte', $redis->set($every, "$every\r\n");
    note 'every byte', $redis->get($every) eq "$every\r\n" for 1, 2;
    note 'empty', $redis->set('', ''), $redis->get(''), $redis->get('');
    for my $size (1 << 14, 1 << 18, 3 << 20) {
        my $large = "0123456789\r\n\0\xff" x ($size / 14);
        note "large $size", $redis->set("large:$size", $large);
        note 'the same', $redis->get("large:$size") eq $large for 1, 2;
    }
    my %many = map { ("many:$_", "value $_") } 0 .. 4_999;
    note 'mset', $redis->mset(%many), $redis->hmset('many', %many);
    for (1, 2) {
        my @names = sort keys %many;
        note 'mget', join(',', $redis->mget(@names)) eq join(',', @many{@names});
        note 'hgetall', {$redis->hgetall('many')};
    }
}

sub scans {
    my $redis = client();
    $redis->flushdb;
    for my $number (0 .. 499) {
        $redis->set("scanned:$number", $number, sub { });
        $redis->sadd('scan:set', "member $number", sub { });
        $redis->hset('scan:hash', "field $number", $number, sub { });
        $redis->zadd('scan:zset', $number, "member $number", sub { });
    }
    $redis->wait_all_responses;
    my %scans = (scan => [], sscan => ['scan:set'], hscan => ['scan:hash'], zscan => ['scan:zset']);
    for my $scan (sort keys %scans) {
        my ($cursor, %seen) = (0);
        do {
            ($cursor, my $page) = $redis->$scan(@{$scans{$scan}}, $cursor, 'MATCH', '*1*', 'COUNT', 50);
            $seen{$_} = 1 for @$page;
        } while $cursor;
        note $scan, scalar keys %seen, sort keys %seen;
    }
    note 'keys', sort $redis->keys('scan:*');
    note 'dbsize', $redis->dbsize, $redis->randomkey =~ /^scan/;
}

sub wrong {
    my $redis = client();
    $redis->set('string', 'value');
    failure 'wrong type', sub { $redis->lpush('string', 'x') };
    failure 'wrong read', sub { $redis->lrange('string', 0, -1) } for 1, 2;
    failure 'no number', sub { $redis->incr('string') };
    failure 'unknown', sub { $redis->nosuch('a') };
    failure 'arity', sub { $redis->get() };
    failure 'no key', sub { $redis->rename('missing', 'x') };
    failure 'bad timeout', sub { $redis->setex('string', 0, 'x') };
    failure 'bad config', sub { $redis->config_set('nosuch', 1) };
    failure 'database', sub { $redis->select(99) };
    note 'usable', $redis->get('string');
}

1;
