<?php

// What a web application does with its session; `?do=` says which of it. The answer is a line of text.

/** The session is locked from here to the end of the request. */
function visits(): int
{
    session_start();
    $_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
    $_SESSION['basket'][] = "thing\0{$_SESSION['visits']}";
    return $_SESSION['visits'];
}

/** A connection of the application's own, kept by its process for the next request. */
function application(): Redis
{
    $redis = new Redis();
    $redis->pconnect(getenv('REDIS_HOST'), (int) getenv('REDIS_PORT'), 20, 'application', 10, 20);
    if (getenv('REDIS_USERNAME') !== false) {
        $redis->auth([getenv('REDIS_USERNAME'), getenv('REDIS_PASSWORD')]);
    }
    return $redis;
}

echo match ($_GET['do']) {
    'visit' => visits(),
    'look' => session_start(['read_and_close' => true]) ? json_encode($_SESSION) : 'no session',
    'nothing' => session_start() ? count($_SESSION) : 'no session',
    'hold' => (function () {
        $visits = visits();
        $redis = application();
        $redis->lPush('held', 'yes');
        return "$visits, " . json_encode($redis->blPop(['go'], 20));
    })(),
    'impatient' => (function () {
        ini_set('redis.session.lock_retries', '2');
        @session_start();
        return error_get_last()['message'];
    })(),
    'regenerate' => (function () {
        $before = visits();
        $old = session_id();
        session_regenerate_id(true);
        $new = session_id();
        session_write_close();
        return json_encode([$before, $old !== $new, $_SESSION]);
    })(),
    'destroy' => (function () {
        session_start();
        return json_encode(session_destroy());
    })(),
    'abort' => (function () {
        visits();
        session_abort();
        return 'aborted';
    })(),
    'connection' => application()->client('id'),
    'cached' => (function () {
        $redis = application();
        return json_encode([$redis->get('article'), $redis->hGetAll('author'), $redis->lRange('comments', 0, -1)]);
    })(),
};
