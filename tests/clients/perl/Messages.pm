package Messages;

# Steps about waiting for others: pub/sub, blocking pops, streams with consumer groups.

use v5.36;

use Library;

our @STEPS = (subscriptions => \&subscriptions, blocking => \&blocking, streams => \&streams);

sub subscriptions {
    my ($redis, $subscriber) = (client(), client());
    $redis->set('subject', 'old');
    note 'cached', $redis->get('subject') for 1, 2;
    my $hear = sub ($message, $channel, $topic) { note 'message', $message, $channel, $topic };
    my $look = sub ($message, $channel, $topic) { note 'looked', $channel, $redis->get('subject') };
    note 'subscribe', $subscriber->subscribe('news', 'more', $hear), $subscriber->psubscribe('pattern:*', $hear), $subscriber->subscribe('news', $look);
    note 'subscribed', $subscriber->is_subscriber;
    note 'publish', $redis->publish('news', 'one'), $redis->publish('pattern:x', "\x7f\r\n\0two"), $redis->publish('nobody', 'three');
    # It returns with the number of messages after a while without any.
    my $heard = 0;
    until_true(sub { ($heard += $subscriber->wait_for_messages(0.05)) == 2 });
    note 'heard', $heard;
    note 'look', $redis->set('subject', 'new'), $redis->publish('news', 'look');
    until_true(sub { $subscriber->wait_for_messages(0.05) });
    failure 'no command', sub { $subscriber->get('subject') };
    note 'ask', $redis->pubsub('NUMSUB', 'news', 'none'), $redis->pubsub('NUMPAT'), sort $redis->pubsub('CHANNELS');
    note 'unsubscribe', $subscriber->unsubscribe('news', $look), $subscriber->unsubscribe('more', $hear), $redis->publish('more', 'nobody hears');
    note 'unsubscribe', $subscriber->unsubscribe('news', $hear), $subscriber->punsubscribe('pattern:*', $hear), $subscriber->is_subscriber;
    note 'usable', $subscriber->set('after', 1), $subscriber->get('after'), $subscriber->get('after');
}

sub blocking {
    my $redis = client();
    note 'ready', $redis->rpush('queue', 'a', 'b'), $redis->blpop('queue', 1), $redis->brpop('queue', 1);
    note 'nothing', scalar $redis->blpop('queue', 0.05), scalar $redis->bzpopmin('zqueue', 0.05);
    for my $pop (qw(blpop brpop)) {
        note 'cached', $redis->llen('queue');
        my $over = beside(sub ($pusher) { $pusher->rpush('queue', $pop) });
        note $pop, $redis->$pop('missing', 'queue', 10);
        $over->();
        note 'left', $redis->llen('queue'), $redis->lrange('queue', 0, -1);
    }
    my $over = beside(sub ($pusher) { $pusher->rpush('queue', 'moved') });
    note 'brpoplpush', $redis->brpoplpush('queue', 'working', 10);
    $over->();
    note 'working', $redis->lrange('working', 0, -1), $redis->lrem('working', 1, 'moved'), $redis->llen('working');
    $over = beside(sub ($pusher) { $pusher->zadd('zqueue', 1, 'first', 2, 'second') });
    note 'bzpopmin', $redis->bzpopmin('zqueue', 10);
    $over->();
    note 'zleft', $redis->zrange('zqueue', 0, -1);
    # A client that gives up waiting hangs up. What comes later goes to whoever waits then.
    my $impatient = client(read_timeout => 0.2);
    failure 'gives up', sub { $impatient->blpop('abandoned', 10) };
    undef $impatient;
    until_true(sub { !blocked($redis) });
    note 'kept', $redis->rpush('abandoned', 'value'), $redis->lrange('abandoned', 0, -1);
}

sub streams {
    my $redis = client();
    note 'xadd', $redis->xadd('stream', "$_-1", 'number', $_, 'raw', "\0\x7f") for 1 .. 4;
    for (1, 2) {
        note 'read', $redis->xlen('stream'), $redis->xrange('stream', '-', '+');
        note 'read', $redis->xrevrange('stream', '+', '-', 'COUNT', 2);
    }
    note 'xread', $redis->xread('STREAMS', 'stream', '3-1');
    note 'xread none', scalar $redis->xread('STREAMS', 'stream', '$');
    note 'group', $redis->xgroup('CREATE', 'stream', 'group', 0), $redis->xgroup('CREATE', 'made', 'group', '$', 'MKSTREAM');
    failure 'group again', sub { $redis->xgroup('CREATE', 'stream', 'group', 0) };
    note 'alice', $redis->xreadgroup('GROUP', 'group', 'alice', 'COUNT', 3, 'STREAMS', 'stream', '>');
    note 'bob', $redis->xreadgroup('GROUP', 'group', 'bob', 'STREAMS', 'stream', '>');
    note 'ack', $redis->xack('stream', 'group', '1-1', '9-9'), $redis->xpending('stream', 'group');
    note 'own history', $redis->xreadgroup('GROUP', 'group', 'alice', 'STREAMS', 'stream', 0);
    note 'claim', $redis->xclaim('stream', 'group', 'bob', 0, '2-1'), $redis->xautoclaim('stream', 'group', 'carol', 0, '0-0', 'COUNT', 1);
    note 'del', $redis->xinfo('GROUPS', 'stream'), $redis->xdel('stream', '1-1'), $redis->xtrim('stream', 'MAXLEN', 2), $redis->xrange('stream', '-', '+');
    my $over = beside(sub ($adder) { $adder->xadd('stream', '10-1', 'late', 'yes') });
    note 'blocked', $redis->xread('BLOCK', 10_000, 'STREAMS', 'stream', '$');
    $over->();
    note 'blocked group', $redis->xreadgroup('GROUP', 'group', 'alice', 'COUNT', 9, 'BLOCK', 10_000, 'STREAMS', 'stream', '>');
    note 'timeout', scalar $redis->xread('BLOCK', 30, 'STREAMS', 'stream', '$');
    note 'destroy', $redis->xgroup('DESTROY', 'stream', 'group');
}

1;
