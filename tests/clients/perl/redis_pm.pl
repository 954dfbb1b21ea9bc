# The workload of Redis.pm. Its arguments are the steps to run, for looking into a failure; without any it runs all.

use v5.36;

use FindBin;
use lib $FindBin::Bin;

use Library;
use Values;
use Transactions;
use Messages;
use Connections;

use constant ROUNDS => 2;

$| = 1;
my @steps = (@Values::STEPS, @Transactions::STEPS, @Messages::STEPS, @Connections::STEPS);
for my $round (0 .. ROUNDS - 1) {
    my $cleaner = client();
    $cleaner->flushall;
    $cleaner->script('flush');
    for (my $index = 0; $index < @steps; $index += 2) {
        my ($name, $step) = @steps[$index, $index + 1];
        next if @ARGV && !grep { $_ eq $name } @ARGV;
        Library::begin("$round/$name");
        $step->();
    }
}
say 'done';
