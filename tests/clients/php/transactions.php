<?php

// Steps about doing several things at once: pipelines, MULTI, WATCH, scripts.

declare(strict_types=1);

const WORKERS = 4;
const INCREMENTS = 8;

function pipelines(): void
{
    $redis = client();
    $pipe = $redis->pipeline();
    $pipe->set('a', 1)->get('a')->incr('a')->get('a')->hSet('h', 'f', 'v')->hGetAll('h')->lRange('none', 0, -1)->exists('a');
    say('replies', $pipe->exec());
    say('empty', $redis->pipeline()->exec());
    say('errors', $redis->pipeline()->set('a', 5)->lPush('a', 'x')->get('a')->exec());
    $pipe = $redis->pipeline();
    for ($number = 0; $number < 300; $number++) {
        $pipe->set('k', $number)->get('k')->get('k');
    }
    say('read your writes', $pipe->exec());
    $pipe = $redis->multi(Redis::PIPELINE);
    say('another way', $pipe->get('k')->mGet(['a', 'none'])->exec());
    $pipe = $redis->pipeline();
    $pipe->set('a', 'discarded');
    say('discard', [$pipe->discard(), $redis->get('a')]);
    // A transaction within a pipeline is how most PHP programs send one.
    say('within', $redis->pipeline()->get('a')->multi()->incr('a')->get('a')->exec()->get('a')->exec());
}

function transactions(): void
{
    $redis = client();
    $other = client();
    say('multi', $redis->multi()->set('a', 1)->incr('a')->get('a')->mGet(['a', 'none'])->exec());
    say('empty', $redis->multi()->exec());
    say('error', $redis->multi()->set('a', 5)->lPush('a', 'x')->get('a')->exec());
    $redis->multi();
    $redis->set('a', 'never');
    say('discard', [$redis->discard(), $redis->get('a')]);
    $redis->multi();
    failure($redis, 'refused', fn () => $redis->rawCommand('NOSUCH') ? 'queued' : 'not queued');
    failure($redis, 'aborted', fn () => $redis->exec());
    $redis = client();
    $redis->set('watched', 1);
    $redis->watch('watched');
    say('seen', $redis->get('watched'));
    say('exec', $redis->multi()->incr('watched')->exec());
    $redis->watch(['watched', 'not yet']);
    say('seen', $redis->get('watched'));
    say('elsewhere', $other->set('watched', 10));
    say('sees it', $redis->get('watched'));
    say('conflict', $redis->multi()->incr('watched')->exec());
    say('after', $redis->get('watched'));
    $redis->watch('not yet');
    $other->set('not yet', 1);
    say('unwatch', [$redis->unwatch(), $redis->multi()->incr('watched')->exec()]);
}

/** The loop of phpredis's documentation, in several processes: no increment may be lost. */
function contention(): void
{
    $redis = client();
    $redis->set('contended', 0);
    $workers = array_map(fn () => new Beside('increment_contended'), range(1, WORKERS));
    foreach ($workers as $worker) {
        $worker->join();
    }
    say('sum', $redis->get('contended'));
    say('locked', $redis->get('guarded'));
}

function increment_contended(): void
{
    $redis = client();
    for ($done = 0; $done < INCREMENTS;) {
        $redis->watch('contended');
        $value = (int) $redis->get('contended');
        if ($redis->multi()->set('contended', $value + 1)->exec() !== false) {
            $done++;
        }
    }
    // The lock of every second program: SET NX, and a script that frees only one's own.
    $release = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
    $token = bin2hex(random_bytes(8));
    for ($done = 0; $done < INCREMENTS; $done++) {
        while (!$redis->set('guard', $token, ['nx', 'px' => 30_000])) {
            usleep(1_000);
        }
        $redis->set('guarded', (int) $redis->get('guarded') + 1);
        if ($redis->eval($release, ['guard', $token], 1) !== 1) {
            throw new RuntimeException('the lock was lost');
        }
    }
}

function scripts(): void
{
    $redis = client();
    $add = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
    $digest = sha1($add);
    say('not loaded', $redis->script('exists', $digest));
    // What phpredis's documentation says to do: ask by digest, and load when there is no such script.
    failure($redis, 'noscript', fn () => $redis->evalSha($digest, ['scripted', 5], 1));
    say('load', $redis->script('load', $add) === $digest);
    say('called', $redis->evalSha($digest, ['scripted', 5], 1));
    say('get', [$redis->get('scripted'), $redis->get('scripted')]);
    say('called', $redis->evalSha($digest, ['scripted', 5], 1));
    say('get', $redis->get('scripted'));
    say('pipelined', $redis->pipeline()->evalSha($digest, ['scripted', 1], 1)->get('scripted')->exec());
    say('undeclared', [$redis->eval("redis.call('SET', 'scripted', 'by script') return 'done'"), $redis->get('scripted')]);
    say('types', $redis->eval("return {1, 'two', {3, {4}}, redis.status_reply('FINE'), false, 'seen', nil, 'not seen'}"));
    failure($redis, 'error', fn () => $redis->eval("return redis.error_reply('MINE own words')"));
    failure($redis, 'raised', fn () => $redis->eval("return redis.call('INCR', KEYS[1])", ['scripted'], 1));
    failure($redis, 'syntax', fn () => $redis->eval('no lua'));
    failure($redis, 'kill', fn () => $redis->script('kill'));
}
