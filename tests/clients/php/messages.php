<?php

// Steps about waiting for others: pub/sub, blocking pops, streams with consumer groups.

declare(strict_types=1);

/**
 * phpredis's subscribe goes on even without a channel; a callback that has heard enough closes the connection. So does
 * a long enough silence.
 */
function subscriptions(): void
{
    $redis = client();
    $redis->set('subject', 'old');
    say('cached', [$redis->get('subject'), $redis->get('subject')]);
    $reader = client();
    $listener = client();
    $publishing = new Beside('publish_later');
    failure($listener, 'over', fn () => $listener->subscribe(['news', 'more'], function (Redis $listener, string $channel, string $message) use ($reader) {
        say('message', [$channel, $message]);
        if ($message === 'look') {
            say('looked', $reader->get('subject'));
        }
        if ($message === 'last') {
            say('unsubscribe', [$listener->unsubscribe(['news', 'more']), $listener->close()]);
        }
    }));
    say('publisher', $publishing->join());
    $listener = client();
    $publishing = new Beside('publish_to_pattern');
    failure($listener, 'over', fn () => $listener->psubscribe(['pattern:*', 'none:*'], function (Redis $listener, string $pattern, string $channel, string $message) {
        say('pmessage', [$pattern, $channel, $message]);
        if ($message === 'last') {
            say('punsubscribe', [$listener->punsubscribe(['pattern:*', 'none:*']), $listener->close()]);
        }
    }));
    say('publisher', $publishing->join());
    $impatient = client([Redis::OPT_READ_TIMEOUT => 0.1]);
    failure($impatient, 'nothing comes', fn () => $impatient->subscribe(['silence'], fn () => null));
    $impatient->close();
    until(fn () => $redis->pubsub('channels') === []);
    say('nobody', [$redis->publish('silence', 'x'), $redis->pubsub('numsub', ['news', 'none']), $redis->pubsub('numpat')]);
}

function publish_later(): void
{
    $redis = client();
    until(fn () => $redis->pubsub('numsub', ['more'])['more'] > 0);
    echo Transcript::shown([
        $redis->pubsub('numsub', ['news', 'more']), sorted($redis->pubsub('channels')), $redis->publish('news', 'one'),
        $redis->publish('more', "\x7f\r\n\0two"), $redis->publish('nobody', 'three'), $redis->set('subject', 'new'),
        $redis->publish('news', 'look'), $redis->publish('news', 'last'),
    ]);
}

function publish_to_pattern(): void
{
    $redis = client();
    until(fn () => $redis->pubsub('numpat') > 1);
    echo Transcript::shown([$redis->publish('pattern:a', 'one'), $redis->publish('other', 'two'), $redis->publish('pattern:b', 'last')]);
}

function blocking(): void
{
    $redis = client();
    say('ready', [$redis->rPush('queue', 'a', 'b'), $redis->blPop(['queue'], 1), $redis->brPop('queue', 1)]);
    say('nothing', [$redis->rawCommand('BLPOP', 'queue', '0.05'), $redis->rawCommand('BZPOPMIN', 'zqueue', '0.05')]);
    foreach (['blPop', 'brPop'] as $method) {
        say('cached', $redis->lLen('queue'));
        $pushing = new Beside('push_later', 'queue', $method);
        say($method, $redis->$method(['missing', 'queue'], 10));
        $pushing->join();
        say('left', [$redis->lLen('queue'), $redis->lRange('queue', 0, -1)]);
    }
    $pushing = new Beside('push_later', 'queue', 'moved');
    say('brpoplpush', $redis->brpoplpush('queue', 'working', 10));
    $pushing->join();
    say('working', [$redis->lRange('working', 0, -1), $redis->lRem('working', 'moved', 1), $redis->lRange('working', 0, -1)]);
    $pushing = new Beside('zadd_later');
    say('bzpopmin', $redis->bzPopMin('zqueue', 10));
    $pushing->join();
    say('zleft', $redis->zRange('zqueue', 0, -1));
    // A client that gives up waiting hangs up. What comes later goes to whoever waits then.
    $impatient = client([Redis::OPT_READ_TIMEOUT => 0.2]);
    failure($impatient, 'gives up', fn () => $impatient->blPop(['abandoned'], 10));
    $impatient->close();
    until(fn () => $redis->info('clients')['blocked_clients'] == 0);
    say('kept', [$redis->rPush('abandoned', 'value'), $redis->lRange('abandoned', 0, -1)]);
}

function push_later(string $key, string $value): void
{
    $redis = client();
    somebody_waits($redis);
    $redis->rPush($key, $value);
}

function zadd_later(): void
{
    $redis = client();
    somebody_waits($redis);
    $redis->zAdd('zqueue', 1, 'first', 2, 'second');
}

function streams(): void
{
    $redis = client();
    for ($number = 1; $number <= 4; $number++) {
        say('xadd', $redis->xAdd('stream', "$number-1", ['number' => $number, 'raw' => "\0\x7f"]));
    }
    foreach (['cold', 'warm'] as $again) {
        say($again, [$redis->xLen('stream'), $redis->xRange('stream', '-', '+'), $redis->xRevRange('stream', '+', '-', 2)]);
    }
    say('xread', $redis->xRead(['stream' => '3-1'], 10));
    say('xread none', $redis->xRead(['stream' => '$']));
    say('group', [$redis->xGroup('CREATE', 'stream', 'group', '0'), $redis->xGroup('CREATE', 'made', 'group', '$', true)]);
    failure($redis, 'group again', fn () => $redis->xGroup('CREATE', 'stream', 'group', '0'));
    say('read', $redis->xReadGroup('group', 'alice', ['stream' => '>'], 3));
    say('read bob', $redis->xReadGroup('group', 'bob', ['stream' => '>'], 1));
    say('ack', $redis->xAck('stream', 'group', ['1-1', '9-9']));
    say('pending', $redis->xPending('stream', 'group'));
    $detail = $redis->xPending('stream', 'group', '-', '+', 10);
    say('pending detail', array_map(fn ($one) => [$one[0], $one[1], $one[3]], $detail));
    say('own history', $redis->xReadGroup('group', 'alice', ['stream' => '0']));
    say('claim', $redis->xClaim('stream', 'group', 'bob', 0, ['2-1']));
    say('autoclaim', $redis->rawCommand('XAUTOCLAIM', 'stream', 'group', 'carol', '0', '0-0', 'COUNT', '1'));
    say('groups', $redis->xInfo('GROUPS', 'stream'));
    say('info', $redis->xInfo('STREAM', 'stream')['length']);
    say('del', [$redis->xDel('stream', ['1-1']), $redis->xTrim('stream', 2), $redis->xRange('stream', '-', '+')]);
    $adding = new Beside('xadd_later');
    say('blocked', $redis->xRead(['stream' => '$'], 1, 10_000));
    $adding->join();
    say('blocked group', $redis->xReadGroup('group', 'alice', ['stream' => '>'], 9, 10_000));
    say('timeout', $redis->xRead(['stream' => '$'], 1, 30));
    say('destroy', $redis->xGroup('DESTROY', 'stream', 'group'));
}

function xadd_later(): void
{
    $redis = client();
    somebody_waits($redis);
    $redis->xAdd('stream', '10-1', ['late' => 'yes']);
}
