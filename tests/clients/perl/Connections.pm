package Connections;

# Steps about the connection itself: names, databases, users, reconnecting, the server's account of itself.

use v5.36;

use Library;

our @STEPS = (names => \&names, databases => \&databases, users => \&users, kills => \&kills, server => \&server);

sub names {
    my $redis = client(name => 'workload');
    note 'name', $redis->client_getname, $redis->client_setname('renamed'), $redis->client_getname;
    failure 'bad name', sub { $redis->client_setname('a name') };
    my $id = $redis->client_id;
    my ($mine) = grep { /^id=$id / } split /\n/, $redis->client_list;
    note 'listed', $mine =~ /\b((?:name|flags|db|sub|psub|multi|user|cmd)=\S*)/g;
    note 'ping', $redis->ping, $redis->echo('hello');
    failure 'unknown', sub { $redis->client('NOSUCH') };
    failure 'hello 9', sub { $redis->hello(9) };
    note 'quit', $redis->quit, $redis->ping;
    failure 'closed', sub { $redis->get('key') };
}

sub databases {
    my ($zero, $three) = (client(), client(on_connect => sub ($redis) { $redis->select(3) }, reconnect => 2, every => 1_000));
    note 'set', $zero->set('place', 'zero'), $three->get('place'), $three->set('place', 'three');
    note 'get', $zero->get('place'), $three->get('place') for 1, 2;
    note 'select', $zero->select(3), $zero->get('place'), $zero->select(0), $zero->get('place');
    # What is done on connecting is done on connecting again.
    $zero->client_kill('ID', $three->client_id);
    note 'again', $three->get('place');
    note 'move', $zero->move('place', 5), $zero->get('place'), $zero->select(5), $zero->get('place'), $zero->select(0);
    note 'swap', $zero->swapdb(0, 5), $zero->get('place');
    note 'flush', $three->flushdb, $three->get('place'), $zero->get('place');
}

sub users {
    my $redis = client();
    note 'setuser', $redis->acl('SETUSER', 'alice', qw(reset on >secret ~her:* &her:* +@all -@admin -lpush));
    my $alice = client(username => 'alice', password => 'secret');
    note 'whoami', $alice->acl('WHOAMI');
    note 'own', $alice->set('her:key', 1), $alice->get('her:key'), $alice->get('her:key');
    note 'his', $redis->set('his:key', 'secret'), $redis->get('his:key'), $redis->get('his:key');
    failure 'foreign key', sub { $alice->get('his:key') };
    failure 'foreign mget', sub { $alice->mget('her:key', 'his:key') };
    failure 'foreign command', sub { $alice->lpush('her:list', 'x') };
    failure 'foreign channel', sub { $alice->publish('news', 'x') };
    failure 'admin', sub { $alice->config_get('*') };
    failure 'wrong password', sub { client(username => 'alice', password => 'guess') };
    failure 'nobody', sub { client(username => 'nobody', password => 'guess') };
    note 'by auth', $redis->auth('alice', 'secret'), $redis->acl('WHOAMI');
    my $admin = client();
    note 'taken away', $admin->acl('SETUSER', 'alice', 'resetkeys', '~other:*');
    failure 'no longer', sub { $alice->get('her:key') };
    note 'others', $admin->get('her:key');
}

sub kills {
    my $killer = client();
    my $kill = sub ($victim) { $killer->client_kill('ID', $victim->client_id) };
    my $victim = client(reconnect => 2, every => 1_000, name => 'victim');
    note 'set', $victim->set('survivor', 'value'), $victim->get('survivor');
    my $id = $victim->client_id;
    note 'kill', $kill->($victim);
    note 'reconnects', $victim->get('survivor'), $victim->client_id > $id, $victim->client_getname;
    my $once = client();
    note 'kill', $kill->($once);
    # How it notices is chance: by the end of what it reads, or by a reset.
    note 'without reconnecting', defined eval { $once->get('survivor') } ? 'no error' : 'dies';
    my $careful = client(reconnect => 2, every => 1_000, conservative_reconnect => 1);
    $careful->watch('survivor');
    $kill->($careful);
    note 'watching', defined eval { $careful->multi; $careful->get('survivor'); $careful->exec } ? 'no error' : 'dies';
    my $popper = client();
    $id = $popper->client_id;
    my $over = beside(sub ($killer) { $killer->client_kill('ID', $id) });
    note 'blocked', defined eval { $popper->blpop('nothing', 10) } ? 'no error' : 'dies';
    $over->();
}

# What monitoring asks.
sub server {
    my $redis = client();
    my $info = $redis->info;
    note 'info', map { exists $info->{$_} } qw(redis_version role used_memory uptime_in_seconds executable db0);
    note 'version', @$info{qw(redis_version role redis_mode)};
    note 'section', sort keys %{$redis->info('replication')};
    note 'command', $redis->command('COUNT'), $redis->command('INFO', 'get');
    note 'getkeys', $redis->command('GETKEYS', 'MSET', 'a', 1, 'b', 2);
    note 'config', {$redis->config_get('maxmemory*')}, $redis->config_set('slowlog-max-len', 100);
    note 'time', scalar @{[$redis->time]};
    note 'role', $redis->role;
    note 'slowlog', ref scalar $redis->slowlog('GET', 1), $redis->slowlog('RESET'), $redis->lastsave > 0, $redis->dbsize;
}

1;
