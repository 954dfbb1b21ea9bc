<?php

// The workload of PHP's own sessions, kept by phpredis (session.save_handler = redis), as the pages of a web application
// use them: several at once, each request in whatever process serves it. Its arguments are the steps to run; without any
// it runs all.

declare(strict_types=1);

require __DIR__ . '/library.php';

const PROCESSES = 4;
const VISITS = 5;

/** Several processes of PHP's web server, each of which serves a request at a time, all with the same pages. */
final class WebServers
{
    private array $ports = [];
    private array $processes = [];

    public function __construct(string ...$settings)
    {
        // Also if the workload fails: whoever waits for its output would wait for theirs.
        register_shutdown_function($this->stop(...));
        $settings[] = 'session.save_handler=redis';
        $settings[] = 'html_errors=0';
        for ($number = 0; $number < PROCESSES; $number++) {
            $port = self::free_port();
            $command = [PHP_BINARY];
            foreach ($settings as $setting) {
                array_push($command, '-d', $setting);
            }
            array_push($command, '-S', "127.0.0.1:$port", '-t', __DIR__ . '/web');
            $nowhere = ['file', '/dev/null', 'w'];
            $this->processes[] = proc_open($command, [1 => $nowhere, 2 => $nowhere], $pipes);
            $this->ports[] = $port;
        }
        foreach ($this->ports as $port) {
            until(function () use ($port) {
                try {
                    return fsockopen('127.0.0.1', $port) !== false;
                } catch (ErrorException) {
                    return false;
                }
            });
        }
    }

    public function stop(): void
    {
        foreach ($this->processes as $process) {
            proc_terminate($process);
            proc_close($process);
        }
        $this->processes = [];
    }

    private static function free_port(): int
    {
        $socket = stream_socket_server('tcp://127.0.0.1:0');
        return (int) substr(strrchr(stream_socket_get_name($socket, false), ':'), 1);
    }

    /** Asks one of the processes for a page, and does not wait for it. */
    public function ask(int $process, string $what, string $session): mixed
    {
        $port = $this->ports[$process % PROCESSES];
        $connection = stream_socket_client("tcp://127.0.0.1:$port", $code, $message, READ_TIMEOUT_S);
        fwrite($connection, "GET /?do=$what HTTP/1.0\r\nHost: localhost\r\nCookie: PHPSESSID=$session\r\n\r\n");
        return $connection;
    }

    /** The page that was asked for. */
    public static function page(mixed $connection): string
    {
        stream_set_timeout($connection, 2 * READ_TIMEOUT_S);
        $answer = stream_get_contents($connection);
        return substr($answer, strpos($answer, "\r\n\r\n") + 4);
    }

    public function visit(int $process, string $what, string $session): string
    {
        return self::page($this->ask($process, $what, $session));
    }
}

/** Each request connects. */
function fresh(): void
{
    sessions('', 0, 'PHPREDIS_SESSION:');
}

/** Each process keeps its connection. */
function persistent(): void
{
    sessions('&persistent=1', 0, 'PHPREDIS_SESSION:');
}

/** With keys of the application's own, in a database of its own. */
function elsewhere(): void
{
    sessions('&database=4&prefix=web:', 4, 'web:');
}

function sessions(string $more, int $database, string $prefix): void
{
    $redis = client([], null, $database);
    // A request waits as long as it takes for the one before it, a millisecond at a time.
    $servers = new WebServers(
        'session.save_path="' . Place::sessions($more) . '"', 'session.gc_maxlifetime=1000', 'session.lazy_write=1',
        'redis.session.locking_enabled=1', 'redis.session.lock_retries=-1', 'redis.session.lock_wait_time=1000',
    );
    $session = 'session-of-' . trim($prefix, ':');
    $key = $prefix . $session;
    say('nobody yet', $servers->visit(0, 'look', $session));
    for ($visit = 0; $visit < VISITS; $visit++) {
        say('visit', $servers->visit($visit, 'visit', $session));
        say('look', $servers->visit($visit + 1, 'look', $session));
    }
    say('warm', array_map(fn ($process) => $servers->visit($process, 'look', $session), range(0, 9)));
    say('kept', [$redis->get($key), $redis->ttl($key) > 900]);
    say('unlocked', $redis->exists("{$key}_LOCK"));
    $asked = array_map(fn ($process) => $servers->ask($process, 'visit', $session), range(0, PROCESSES * VISITS - 1));
    $visits = array_map(fn ($connection) => (int) WebServers::page($connection), $asked);
    // In whatever order: each has a number of its own.
    say('at once', sorted($visits));
    say('after', $servers->visit(0, 'look', $session));
    say('touched', [$redis->expire($key, 10), $servers->visit(1, 'nothing', $session), $redis->ttl($key) > 900]);
    say('from outside', [$redis->set($key, 'visits|i:100;'), $servers->visit(2, 'look', $session), $servers->visit(3, 'visit', $session)]);
    say('aborted', [$servers->visit(0, 'abort', $session), $servers->visit(1, 'look', $session)]);
    locked($servers, client(), $redis, $key, $session);
    say('regenerated', $servers->visit(1, 'regenerate', $session));
    say('left', count($redis->keys("$prefix*")));
    say('destroyed', [$servers->visit(2, 'visit', "other-$session"), $servers->visit(2, 'destroy', "other-$session"), $redis->exists("{$prefix}other-$session")]);
    $redis->pExpire($key, 1);
    until(fn () => !$redis->exists($key));
    say('over', $servers->visit(1, 'look', $session));
    application($servers, client());
    $servers->stop();
}

/** One request holds the session, and the others wait for it, or do not. */
function locked(WebServers $servers, Redis $redis, Redis $keeper, string $key, string $session): void
{
    $held = $servers->ask(0, 'hold', $session);
    say('held', $redis->blPop(['held'], 20));
    say('locked', $keeper->exists("{$key}_LOCK"));
    say('impatient', $servers->visit(1, 'impatient', $session));
    $waiting = $servers->ask(2, 'visit', $session);
    say('go', $redis->rPush('go', 'on'));
    say('holder', WebServers::page($held));
    say('waiter', WebServers::page($waiting));
}

/** The connection of the application itself outlives the request, and may be cut between two of them. */
function application(WebServers $servers, Redis $redis): void
{
    $redis->set('article', 'text');
    $redis->hMSet('author', ['name' => 'Ada']);
    $redis->del('comments');
    $redis->rPush('comments', 'first', 'second');
    say('cached', array_map(fn ($process) => $servers->visit($process, 'cached', 'nobody'), range(0, 9)));
    $redis->set('article', 'changed');
    say('changed', array_map(fn ($process) => $servers->visit($process, 'cached', 'nobody'), range(0, 3)));
    $id = $servers->visit(0, 'connection', 'nobody');
    say('connection', [$servers->visit(0, 'connection', 'nobody') === $id, $redis->rawCommand('CLIENT', 'KILL', 'ID', $id)]);
    say('connects again', $servers->visit(0, 'connection', 'nobody') !== $id);
    say('cached', $servers->visit(0, 'cached', 'nobody'));
}

run(['fresh', 'persistent', 'elsewhere']);
