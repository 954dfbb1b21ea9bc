# frozen_string_literal: true

require "rbconfig"

# A heartbeat of Sidekiq's is 5 s, and the first look for due jobs comes within 5 s as well.
POLLS_MAX = 3_000
POLL_INTERVAL_S = 0.02

def eventually(what)
  POLLS_MAX.times do
    return if yield

    sleep POLL_INTERVAL_S
  end
  raise "it never came true that #{what}"
end

# Sidekiq's own processes.
module Workers
  # The timeout is for jobs when it is told to stop. It is longer than the 2 s that an idle thread waits for a job: one
  # that is ended in the middle of that may take a job that was given back, and lose it.
  COMMAND = %w[sidekiq --environment test --concurrency 3 --timeout 4 --queue critical,2 --queue default --queue low].freeze

  @pids = []

  def self.start
    jobs = File.join(__dir__, "jobs.rb")
    @pids << Process.spawn(*COMMAND, "--require", jobs, %i[out err] => File::NULL)
  end

  def self.wait_all
    @pids.each { |pid| Process.wait(pid) }
    @pids.clear
  end

  def self.stop_all
    @pids.each { |pid| Process.kill("TERM", pid) }
    wait_all
  end
end
