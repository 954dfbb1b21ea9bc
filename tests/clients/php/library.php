<?php

// What the workloads share: how they run, and how the steps speak to the server and to the transcript. Nothing here
// stands between a step and phpredis: it calls the extension as applications do.

declare(strict_types=1);

set_error_handler(function (int $kind, string $message, string $file, int $line) {
    if (error_reporting() & $kind) {
        throw new ErrorException($message, 0, $kind, $file, $line);
    }
    return true;
});

const ROUNDS = 2;
// A reply that takes longer is lost: phpredis throws, and the step says so.
const READ_TIMEOUT_S = 20;
// Longer values stand in the transcript as their length and digest.
const SHOWN_MAX = 300;
// How what comes by itself is looked for.
const POLLS_MAX = 1000;
const POLL_INTERVAL_US = 10_000;

/** Where and as whom the workload connects: see tests/clients/ecosystem.rs. */
final class Place
{
    public static string $host;
    public static int $port;
    /** Name and password, or nothing for the default user. */
    public static ?array $login = null;

    public static function read(): void
    {
        self::$host = getenv('REDIS_HOST');
        self::$port = (int) getenv('REDIS_PORT');
        if (getenv('REDIS_USERNAME') !== false) {
            self::$login = [getenv('REDIS_USERNAME'), getenv('REDIS_PASSWORD')];
        }
    }

    /** What a save_path of sessions says of it. */
    public static function sessions(string $more = ''): string
    {
        $login = '';
        foreach (self::$login ?? [] as $word) {
            $login .= '&auth[]=' . urlencode($word);
        }
        return sprintf('tcp://%s:%d?timeout=%d&read_timeout=%d%s%s', self::$host, self::$port, READ_TIMEOUT_S,
            READ_TIMEOUT_S, $login, $more);
    }
}

/** A connection as a program opens it; `$options` are those of setOption. */
function client(array $options = [], ?string $persistent = null, int $database = 0): Redis
{
    $redis = new Redis();
    if ($persistent === null) {
        $redis->connect(Place::$host, Place::$port, READ_TIMEOUT_S, null, 10, READ_TIMEOUT_S);
    } else {
        $redis->pconnect(Place::$host, Place::$port, READ_TIMEOUT_S, $persistent, 10, READ_TIMEOUT_S);
    }
    if (Place::$login !== null) {
        $redis->auth(Place::$login);
    }
    if ($database !== 0) {
        $redis->select($database);
    }
    foreach ($options as $option => $value) {
        $redis->setOption($option, $value);
    }
    return $redis;
}

/** The transcript. */
final class Transcript
{
    public static string $step = '';

    public static function say(string $what, mixed $value): void
    {
        echo self::$step, '/', $what, ': ', self::shown($value), "\n";
    }

    public static function shown(mixed $value): string
    {
        $shown = self::written($value);
        if (strlen($shown) <= SHOWN_MAX) {
            return $shown;
        }
        return sprintf('<%d bytes, %s>', strlen($shown), md5($shown));
    }

    private static function written(mixed $value): string
    {
        if (is_array($value)) {
            $pairs = [];
            foreach ($value as $key => $one) {
                $pairs[] = self::written($key) . ' => ' . self::written($one);
            }
            return '[' . implode(', ', $pairs) . ']';
        }
        if (is_string($value)) {
            return '"' . addcslashes($value, "\0..\37\"\\\177..\377") . '"';
        }
        if (is_object($value)) {
            return get_class($value);
        }
        return var_export($value, true);
    }
}

function say(string $what, mixed $value): void
{
    Transcript::say($what, $value);
}

/** What a call that the server refuses leaves: phpredis throws some errors, and keeps the others for getLastError. */
function failure(Redis $redis, string $what, callable $attempt): void
{
    $redis->clearLastError();
    try {
        $result = $attempt();
    } catch (RedisException $thrown) {
        say($what, 'thrown: ' . str_replace(Place::$host . ':' . Place::$port, 'ADDRESS', $thrown->getMessage()));
        return;
    }
    say($what, [$result, $redis->getLastError()]);
    $redis->clearLastError();
}

/** A set has no order. */
function sorted(array $members): array
{
    sort($members);
    return $members;
}

/** A map has none either. */
function by_key(array $map): array
{
    ksort($map);
    return $map;
}

/**
 * Runs the steps of a workload, or those of its arguments, for looking into a failure. Every round is on an emptied
 * server. Or runs the function that Beside has asked for.
 */
function run(array $steps): void
{
    Place::read();
    $arguments = array_slice($_SERVER['argv'], 1);
    if (($arguments[0] ?? '') === '--beside') {
        $arguments[1](...array_slice($arguments, 2));
        return;
    }
    for ($round = 0; $round < ROUNDS; $round++) {
        $cleaner = client();
        $cleaner->flushAll();
        $cleaner->script('flush');
        foreach ($arguments ?: $steps as $step) {
            Transcript::$step = "$round/$step";
            $step();
        }
    }
    echo "done\n";
}

/** Runs a function of the workload in a process of its own; `join` waits for it and fails if it failed. */
final class Beside
{
    private mixed $process;
    private array $pipes = [];

    public function __construct(string $function, string ...$arguments)
    {
        $command = [PHP_BINARY, $_SERVER['argv'][0], '--beside', $function, ...$arguments];
        $this->process = proc_open($command, [1 => ['pipe', 'w']], $this->pipes);
    }

    /** What it printed. */
    public function join(): string
    {
        $said = stream_get_contents($this->pipes[1]);
        if (proc_close($this->process) !== 0) {
            throw new RuntimeException("what ran beside failed: $said");
        }
        return $said;
    }
}

/** Returns once something holds that comes by itself. */
function until(callable $holds): void
{
    for ($poll = 0; $poll < POLLS_MAX; $poll++) {
        if ($holds()) {
            return;
        }
        usleep(POLL_INTERVAL_US);
    }
    throw new RuntimeException('it never came true');
}

/** Waits until a client of this server is blocked: a pop that nobody waits for tells nothing. */
function somebody_waits(Redis $redis): void
{
    until(fn () => $redis->info('clients')['blocked_clients'] > 0);
}
