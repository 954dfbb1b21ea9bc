package Library;

# How the steps speak to the server and to the transcript. Nothing here stands between a step and Redis.pm: it calls it
# as applications do.

use v5.36;

use Digest::MD5 qw(md5_hex);
use Exporter qw(import);
use Redis;
use Time::HiRes qw(sleep);

our @EXPORT = qw(client note failure until_true beside blocked);

# A reply that takes longer is lost: Redis.pm dies, and the step fails.
use constant TIMEOUT_S => 20;
# Longer values stand in the transcript as their length and digest.
use constant SHOWN_MAX => 300;
# How what comes by itself is looked for.
use constant POLLS_MAX       => 1_000;
use constant POLL_INTERVAL_S => 0.01;

my $address = "$ENV{REDIS_HOST}:$ENV{REDIS_PORT}";
my $step    = '';

# A connection: see tests/clients/ecosystem.rs for the login.
sub client (%options) {
    my %login = defined $ENV{REDIS_USERNAME} ? (username => $ENV{REDIS_USERNAME}, password => $ENV{REDIS_PASSWORD}) : ();
    return Redis->new(server => $address, read_timeout => TIMEOUT_S, write_timeout => TIMEOUT_S, %login, %options);
}

sub begin ($name) { $step = $name }

# A line of the transcript.
sub note ($what, @values) {
    my $text = join ', ', map { written($_) } @values;
    $text = sprintf '<%d bytes, %s>', length $text, md5_hex($text) if length $text > SHOWN_MAX;
    say "$step/$what: $text";
}

sub written ($value) {
    return 'nil' if !defined $value;
    return '[' . join(', ', map { written($_) } @$value) . ']' if ref $value eq 'ARRAY';
    return '{' . join(', ', map { "$_ => " . written($value->{$_}) } sort keys %$value) . '}' if ref $value eq 'HASH';
    return '"' . $value =~ s/([^ -~]|["\\])/sprintf '\\x%02x', ord $1/ger . '"';
}

# What a call dies of, without the line of the source that it says.
sub failure ($what, $attempt) {
    my @values = eval { $attempt->() };
    return note($what, 'no error', @values) if !$@;
    note($what, 'dies: ' . $@ =~ s/, at \S+ line \d+.*| at \S+ line \d+.*//sr =~ s/\Q$address\E/ADDRESS/r);
}

sub until_true ($holds) {
    for (1 .. POLLS_MAX) {
        return if $holds->();
        sleep POLL_INTERVAL_S;
    }
    die 'it never came true';
}

sub blocked ($redis) { $redis->info->{blocked_clients} }

# Runs in a process of its own with a connection of its own, once somebody waits: a pop that nobody waits for tells
# nothing. Call what it returns to wait for its end.
sub beside ($run) {
    my $pid = fork // die "cannot fork: $!";
    if (!$pid) {
        my $redis = client();
        until_true(sub { blocked($redis) });
        $run->($redis);
        exit 0;
    }
    return sub { waitpid $pid, 0; die 'what ran beside failed' if $? };
}

1;
