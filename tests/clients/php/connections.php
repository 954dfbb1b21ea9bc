<?php

// Steps about the connection itself: names, persistent connections, databases, users, the server's account of itself.

declare(strict_types=1);

function names(): void
{
    $redis = client();
    say('unnamed', $redis->client('getname'));
    say('setname', [$redis->client('setname', 'workload'), $redis->client('getname')]);
    failure($redis, 'bad name', fn () => $redis->client('setname', 'a name'));
    $id = $redis->client('id');
    $mine = array_values(array_filter($redis->client('list'), fn ($client) => $client['id'] == $id));
    say('listed', [count($mine), $mine[0]['name'], $mine[0]['db'], $mine[0]['user'], $mine[0]['cmd']]);
    say('ping', [$redis->ping(), $redis->ping('hello'), $redis->echo('hello')]);
    say('connected', [$redis->isConnected(), $redis->getDBNum(), $redis->getTimeout() > 0]);
    failure($redis, 'resp3', fn () => $redis->rawCommand('HELLO', '4'));
    say('hello', count($redis->rawCommand('HELLO', '2')));
    failure($redis, 'unknown', fn () => $redis->rawCommand('CLIENT', 'NOSUCH'));
    say('reset', [$redis->rawCommand('RESET') === true || $redis->rawCommand('PING') === true]);
}

/** A persistent connection is kept for the next request, with whatever the last one left on it. */
function persistent(): void
{
    $first = client([], 'one');
    $id = $first->client('id');
    say('set', [$first->set('kept', 'value'), $first->get('kept'), $first->get('kept')]);
    $first->client('setname', 'persistent');
    $first->close();
    $again = client([], 'one');
    say('the same', [$again->client('id') === $id, $again->client('getname'), $again->get('kept')]);
    $other = client([], 'other');
    say('another', [$other->client('id') === $id, $other->get('kept')]);
    // Left in the middle of a transaction: the next user of the connection inherits it.
    $again->watch('kept');
    $again->close();
    $third = client([], 'one');
    $other->set('kept', 'changed');
    say('inherits', [$third->client('id') === $id, $third->multi()->get('kept')->exec(), $third->get('kept')]);
    $third->select(2);
    $third->close();
    $fourth = client([], 'one');
    say('database', [$fourth->get('kept'), $fourth->select(0), $fourth->get('kept')]);
    // phpredis asks a kept connection whether it lives, and dials again if it does not.
    $other->rawCommand('CLIENT', 'KILL', 'ID', (string) $id);
    $fourth->close();
    $fifth = client([], 'one');
    say('dials again', [$fifth->client('id') === $id, $fifth->client('getname'), $fifth->get('kept')]);
}

function databases(): void
{
    $zero = client();
    $three = client([], null, 3);
    say('set', [$zero->set('place', 'zero'), $three->get('place'), $three->set('place', 'three')]);
    foreach (['cold', 'warm'] as $again) {
        say($again, [$zero->get('place'), $three->get('place')]);
    }
    say('select', [$zero->select(3), $zero->get('place'), $zero->getDBNum(), $zero->select(0), $zero->get('place')]);
    say('move', [$zero->move('place', 5), $zero->get('place'), $zero->select(5), $zero->get('place'), $zero->select(0)]);
    say('swap', [$zero->swapdb(0, 5), $zero->get('place')]);
    say('flush', [$three->flushDB(), $three->get('place'), $zero->get('place')]);
    say('keyspace', array_keys($zero->info('keyspace')));
}

function users(): void
{
    $redis = client();
    say('setuser', $redis->rawCommand('ACL', 'SETUSER', 'alice', 'reset', 'on', '>secret', '~her:*', '&her:*', '+@all', '-@admin', '-lpush'));
    $alice = new Redis();
    $alice->connect(Place::$host, Place::$port, READ_TIMEOUT_S, null, 10, READ_TIMEOUT_S);
    failure($alice, 'wrong password', fn () => $alice->auth(['alice', 'guess']));
    say('auth', [$alice->auth(['alice', 'secret']), $alice->acl('WHOAMI')]);
    say('own', [$alice->set('her:key', 1), $alice->get('her:key'), $alice->get('her:key')]);
    say('his', [$redis->set('his:key', 'secret'), $redis->get('his:key'), $redis->get('his:key')]);
    failure($alice, 'foreign key', fn () => $alice->get('his:key'));
    failure($alice, 'foreign mget', fn () => $alice->mGet(['her:key', 'his:key']));
    failure($alice, 'foreign command', fn () => $alice->lPush('her:list', 'x'));
    failure($alice, 'foreign channel', fn () => $alice->publish('news', 'x'));
    failure($alice, 'admin', fn () => $alice->config('GET', '*'));
    failure($alice, 'in multi', fn () => $alice->multi()->get('his:key'));
    failure($alice, 'aborted', fn () => $alice->exec());
    failure($alice, 'over', fn () => $alice->discard());
    $options = new Redis();
    $options->connect(Place::$host, Place::$port, READ_TIMEOUT_S, null, 10, READ_TIMEOUT_S, ['auth' => ['alice', 'secret']]);
    say('in connect', [$options->acl('WHOAMI'), $options->get('her:key')]);
    say('taken away', $redis->rawCommand('ACL', 'SETUSER', 'alice', 'resetkeys', '~other:*'));
    failure($options, 'no longer', fn () => $options->get('her:key'));
    say('deluser', $redis->acl('DELUSER', 'alice'));
    // Redis closes her connections a moment later, nearhit with her next command: what that meets is chance or choice.
    try {
        say('deleted', $options->get('her:key'));
    } catch (RedisException) {
        say('deleted', 'thrown');
    }
    say('others', $redis->get('her:key'));
}

/** A killed client's next command dials again; most programs learn of it no other way. */
function kills(): void
{
    $killer = client();
    foreach (['plain' => client(), 'persistent' => client([], 'killed'), 'with a database' => client([], null, 3)] as $kind => $victim) {
        $victim->set("survivor of $kind", 'value');
        $id = $victim->client('id');
        say($kind, [$victim->get("survivor of $kind"), $killer->rawCommand('CLIENT', 'KILL', 'ID', (string) $id)]);
        failure($victim, "$kind reads", fn () => $victim->get("survivor of $kind"));
        failure($victim, "$kind is another", fn () => $victim->client('id') > $id);
    }
    $victim = client();
    $victim->watch('watched');
    $killer->rawCommand('CLIENT', 'KILL', 'ID', (string) $victim->client('id'));
    failure($victim, 'in a transaction', fn () => $victim->multi()->get('watched')->exec());
    // Forgetting it throws as well.
    try {
        unset($victim);
    } catch (RedisException $thrown) {
        say('forgotten', $thrown->getMessage());
    }
}

/** What monitoring asks. */
function server(): void
{
    $redis = client();
    $info = $redis->info();
    say('info', array_map(fn ($key) => isset($info[$key]), ['redis_version', 'role', 'used_memory', 'uptime_in_seconds']));
    say('version', [$info['redis_version'], $info['role'], $info['executable'] !== '']);
    say('section', array_keys($redis->info('replication')));
    say('command', [$redis->command('count'), $redis->command('info', 'get')]);
    say('getkeys', $redis->command('getkeys', ['MSET', 'a', '1', 'b', '2']));
    say('config', [by_key($redis->config('GET', 'maxmemory*')), $redis->config('SET', 'slowlog-max-len', '100')]);
    say('time', count($redis->time()));
    say('wait', $redis->wait(0, 10));
    say('slowlog', [is_array($redis->slowlog('get', 1)), $redis->slowlog('reset')]);
    say('role', $redis->role());
    say('lastsave', $redis->lastSave() > 0);
    say('memory', $redis->rawCommand('MEMORY', 'USAGE', 'missing'));
    say('debug', $redis->rawCommand('OBJECT', 'FREQ', 'missing'));
}
