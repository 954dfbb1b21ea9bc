<?php

// The workload of phpredis. Its arguments are the steps to run; without any it runs all.

declare(strict_types=1);

require __DIR__ . '/library.php';
require __DIR__ . '/values.php';
require __DIR__ . '/transactions.php';
require __DIR__ . '/messages.php';
require __DIR__ . '/connections.php';

run([
    'hot', 'strings', 'collections', 'expiry', 'serialized', 'binary', 'scans', 'wrong',
    'pipelines', 'transactions', 'contention', 'scripts',
    'subscriptions', 'blocking', 'streams',
    'names', 'persistent', 'databases', 'users', 'kills', 'server',
]);
