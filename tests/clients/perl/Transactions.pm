package Transactions;

# Steps about doing several things at once: pipelines, MULTI, WATCH, scripts.

use v5.36;

use Digest::SHA qw(sha1_hex);
use Time::HiRes qw(sleep);

use Library;

use constant WORKERS    => 4;
use constant INCREMENTS => 8;
use constant ADD        => "return redis.call('INCRBY', KEYS[1], ARGV[1])";
use constant RELEASE    => "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

our @STEPS = (pipelines => \&pipelines, transactions => \&transactions, contention => \&contention, scripts => \&scripts);

# A call whose last argument is a function is pipelined, and the function hears of its reply.
sub pipelines {
    my $redis = client();
    my @heard;
    my $hear = sub ($reply, $error) { push @heard, $reply, $error };
    $redis->set('a', 1, $hear);
    $redis->get('a', $hear);
    $redis->incr('a', $hear);
    $redis->lpush('a', 'x', $hear);
    $redis->get('a', $hear);
    $redis->hgetall('none', $hear);
    $redis->wait_one_response;
    note 'first', @heard;
    $redis->wait_all_responses;
    note 'all', @heard;
    @heard = ();
    for my $number (0 .. 299) {
        $redis->set('k', $number, $hear);
        $redis->get('k', $hear) for 1, 2;
    }
    # A call that is not pipelined waits for those that are.
    note 'after', $redis->get('k');
    note 'read your writes', [@heard];
}

sub transactions {
    my ($redis, $other) = (client(), client());
    note 'multi', $redis->multi, $redis->set('a', 1), $redis->incr('a'), $redis->get('a'), [$redis->exec];
    note 'empty', $redis->multi, [$redis->exec];
    $redis->multi;
    $redis->set('a', 5);
    $redis->lpush('a', 'x');
    failure 'error', sub { $redis->exec };
    note 'discard', $redis->multi, $redis->set('a', 'never'), $redis->discard, $redis->get('a');
    $redis->multi;
    failure 'refused', sub { $redis->nosuch };
    failure 'aborted', sub { $redis->exec };
    my $replies;
    $redis->multi(sub { });
    $redis->set('a', 7, sub { });
    $redis->get('a', sub { });
    $redis->exec(sub ($reply, $error) { $replies = $reply });
    $redis->wait_all_responses;
    note 'pipelined', [map { $_->[0] } @$replies];
    $redis->set('watched', 1);
    note 'watch', $redis->watch('watched'), $redis->get('watched'), $redis->multi, $redis->incr('watched'), [$redis->exec];
    note 'watch', $redis->watch('watched', 'not yet'), $redis->get('watched');
    note 'elsewhere', $other->set('watched', 10);
    note 'conflict', $redis->get('watched'), $redis->multi, $redis->incr('watched'), scalar $redis->exec, $redis->get('watched');
    note 'watch', $redis->watch('not yet'), $other->set('not yet', 1), $redis->unwatch, $redis->multi, $redis->incr('watched'), [$redis->exec];
}

# The loop that every client's documentation has, in several processes: no increment may be lost.
sub contention {
    my $redis = client();
    $redis->set('contended', 0);
    my @pids;
    for my $worker (1 .. WORKERS) {
        my $pid = fork // die "cannot fork: $!";
        if (!$pid) {
            count(client(), $worker);
            exit 0;
        }
        push @pids, $pid;
    }
    for my $pid (@pids) {
        waitpid $pid, 0;
        die 'a worker failed' if $?;
    }
    note 'sum', $redis->get('contended'), $redis->get('guarded');
}

sub count ($redis, $worker) {
    for my $done (1 .. INCREMENTS) {
        while (1) {
            $redis->watch('contended');
            my $value = $redis->get('contended');
            $redis->multi;
            $redis->set('contended', $value + 1);
            last if defined scalar $redis->exec;
        }
    }
    for my $done (1 .. INCREMENTS) {
        sleep 0.001 until $redis->set('guard', $worker, 'NX', 'PX', 30_000);
        $redis->set('guarded', ($redis->get('guarded') // 0) + 1);
        die 'the lock was lost' if !$redis->eval(RELEASE, 1, 'guard', $worker);
    }
}

sub scripts {
    my $redis = client();
    my $digest = sha1_hex(ADD);
    note 'not loaded', $redis->script('EXISTS', $digest);
    failure 'noscript', sub { $redis->evalsha($digest, 1, 'scripted', 5) };
    for (1 .. 2) {
        # By digest, and the whole script when the server has not got it.
        my $sum = eval { $redis->evalsha($digest, 1, 'scripted', 5) };
        $sum = $redis->eval(ADD, 1, 'scripted', 5) if $@ =~ /NOSCRIPT/;
        note 'called', $sum, $redis->get('scripted'), $redis->get('scripted');
    }
    note 'load', $redis->script_load(ADD) eq $digest, $redis->script_exists($digest);
    note 'undeclared', $redis->eval("redis.call('SET', 'scripted', 'by script') return 'done'", 0), $redis->get('scripted');
    note 'types', $redis->eval("return {1, 'two', {3, {4}}, redis.status_reply('FINE'), false, 'seen', nil, 'not seen'}", 0);
    failure 'error', sub { $redis->eval("return redis.error_reply('MINE own words')", 0) };
    failure 'raised', sub { $redis->eval("return redis.call('INCR', KEYS[1])", 1, 'scripted') };
    failure 'syntax', sub { $redis->eval('no lua', 0) };
    failure 'kill', sub { $redis->script_kill };
}

1;
