# frozen_string_literal: true

# The workload of Sidekiq: its workers, and its API, which its web pages are made of. Times, ids and the order of what
# runs at once are left out. Its arguments are the steps to run, for looking into a failure; without any it runs all.

require "sidekiq/api"

require_relative "jobs"
require_relative "workers"

ROUNDS = 2
HOUR_S = 3600

# The transcript.
class Workload
  STEPS = %i[enqueue work change retries deaths busy interrupted history].freeze

  def initialize(round)
    @round = round
    @step = ""
  end

  def run
    Sidekiq.redis(&:flushall)
    Sidekiq.logger.level = Logger::ERROR
    Sidekiq.redis { |redis| redis.mset("setting", "old"); redis.hset("settings", "colour", "blue") }
    STEPS.each do |step|
      next unless ARGV.empty? || ARGV.include?(step.to_s)

      @step = step
      public_send(step)
    end
  ensure
    Workers.stop_all
  end

  # Nobody works yet.
  def enqueue
    say "ids", Array.new(20) { |number| Plain.perform_async("p#{number}") }.uniq.size
    say "bulk", Sidekiq::Client.push_bulk("class" => Plain, "args" => Array.new(200) { |number| ["b#{number}", { "n" => number }] }).size
    say "set", [Plain.set(queue: "low").perform_async("low").size, Critical.perform_async("first").size]
    say "raw", Sidekiq::Client.push("class" => "Critical", "queue" => "critical", "args" => ["ключ"]).size
    say "later", [Plain.perform_in(HOUR_S, "later").size, Plain.perform_at(Time.now + (2 * HOUR_S), "much later").size]
    say "soon", Plain.perform_in(0.2, "soon").size
    2.times { say "stats", stats }
    2.times { say "queues", Sidekiq::Queue.all.map { |queue| [queue.name, queue.size, queue.latency >= 0, queue.paused?] } }
    default = Sidekiq::Queue.new
    say "jobs", default.map { |job| [job.klass, job.args, job.queue, job.jid.size] }
    doomed = default.find { |job| job.args.first == "p3" }
    say "found", default.find_job(doomed.jid).args
    say "deleted", [doomed.delete, default.size, default.find_job(doomed.jid)]
    scheduled = Sidekiq::ScheduledSet.new
    say "scheduled", scheduled.map { |job| [job.klass, job.args, job.at > Time.now - HOUR_S] }
    later = scheduled.find { |job| job.args == ["later"] }
    say "by id", [scheduled.find_job(later.jid).args, scheduled.fetch(later.score, later.jid).map(&:args), scheduled.scan("much").map(&:args)]
    later.reschedule(Time.now + (3 * HOUR_S))
    say "rescheduled", scheduled.map(&:args)
    say "cancelled", [scheduled.find_job(later.jid).delete, scheduled.size]
  end

  def work
    Workers.start
    Workers.start
    eventually("all is done") { done.size == 220 + 3 }
    say "done", done.sort
    eventually("they have counted") { stats[:processed] == 223 }
    say "stats", stats
    say "processes", Sidekiq::ProcessSet.new.map { |process| [process["concurrency"], process["queues"].uniq.sort, process.labels, process.stopping?] }
    say "total", [Sidekiq::ProcessSet.new.size, Sidekiq::ProcessSet.new.total_concurrency, Sidekiq::ProcessSet.new.leader]
  end

  # What workers have read a hundred times is read anew once it has changed.
  def change
    clear_done
    Sidekiq.redis { |redis| redis.set("setting", "new"); redis.hset("settings", "colour", "red") }
    Plain.perform_async("changed")
    eventually("it is done") { done.size == 1 }
    say "done", done
  end

  def retries
    clear_done
    3.times { |number| Fragile.perform_async("f#{number}") }
    2.times { |number| Stubborn.perform_async("s#{number}") }
    retries = Sidekiq::RetrySet.new
    eventually("they are tried again") { done.size == 2 }
    eventually("they wait for the next try") { retries.size == 3 }
    say "stubborn", done.sort
    say "waiting", retries.map { |job| [job.klass, job.args, job["error_class"], job["error_message"], job["retry_count"], job.error?] }.sort
    say "dead", [retries.find { |job| job.args == ["f1"] }.kill.class, retries.size, Sidekiq::DeadSet.new.map(&:args)]
    Sidekiq.redis { |redis| redis.set("healed", "yes") }
    retries.retry_all
    eventually("they are healed") { done.size == 4 }
    say "healed", [done.sort, retries.size]
  end

  def deaths
    clear_done
    Hopeless.perform_async("h")
    dead = Sidekiq::DeadSet.new
    eventually("it is dead") { dead.size == 2 }
    say "dead", dead.map { |job| [job.klass, job.args, job["error_class"], job["error_message"], job["retry_count"]] }.sort_by(&:to_s)
    say "given up", done
    dead.find { |job| job.klass == "Fragile" }.retry
    eventually("it lives again") { done.size == 2 }
    say "resurrected", [done.sort, dead.size]
    say "cleared", [dead.clear.class, dead.size]
  end

  # What the page of busy workers shows.
  def busy
    clear_done
    2.times { |number| Long.perform_async("l#{number}") }
    eventually("they have begun") { Sidekiq.redis { |redis| redis.llen("working") } == 2 }
    eventually("it is known") { Sidekiq::WorkSet.new.size == 2 }
    say "working", Sidekiq::WorkSet.new.map { |_, _, work| [work["queue"], work["payload"]["class"], work["payload"]["args"]] }.sort
    Sidekiq.redis { |redis| redis.rpush("let go", %w[one two]) }
    eventually("they are let go") { done.size == 2 }
    say "done", done.sort
  end

  # A worker that has to go gives its job back, and another takes it up.
  def interrupted
    clear_done
    Sidekiq.redis { |redis| redis.del("working") }
    Workers.stop_all
    say "nobody", Sidekiq::ProcessSet.new.size
    say "so far", stats
    Workers.start
    Long.perform_async("unfinished")
    eventually("it has begun") { Sidekiq.redis { |redis| redis.llen("working") } == 1 }
    eventually("it is known") { Sidekiq::ProcessSet.new.size == 1 }
    Sidekiq::ProcessSet.new.each(&:stop!)
    Workers.wait_all
    say "given back", [Sidekiq::Queue.new("critical").map { |job| [job.klass, job.args] }, done]
    Workers.start
    eventually("it has begun again") { Sidekiq.redis { |redis| redis.llen("working") } == 2 }
    Sidekiq.redis { |redis| redis.del("let go"); redis.rpush("let go", "one") }
    eventually("it is done") { done.size == 1 }
    Workers.stop_all
    say "done", [done, Sidekiq::Queue.new("critical").size]
  end

  # Days may change while this runs, and the names of virtual machines do.
  def history
    history = Sidekiq::Stats::History.new(2)
    say "days", [history.processed.values.sum, history.failed.values.sum]
    say "stats", stats
    say "reset", [Sidekiq::Stats.new.reset, stats]
    say "emptied", [Sidekiq::Queue.new("low").clear.class, Sidekiq::ScheduledSet.new.clear.class, stats]
    say "left", Sidekiq.redis { |redis| redis.scan_each.reject { |key| key.start_with?("stat:processed:", "stat:failed:", "vm:") } }.sort
  end

  private

  def say(what, value)
    text = value.inspect
    text = "<#{text.bytesize} bytes, #{Digest::MD5.hexdigest(text)}>" if text.bytesize > 1_000
    puts "#{@round}/#{@step}/#{what}: #{text}"
    $stdout.flush
  end

  def done = Sidekiq.redis { |redis| redis.lrange("done", 0, -1) }

  def clear_done = Sidekiq.redis { |redis| redis.del("done") }

  def stats
    now = Sidekiq::Stats.new
    { processed: now.processed, failed: now.failed, enqueued: now.enqueued, scheduled: now.scheduled_size, retry: now.retry_size,
      dead: now.dead_size, processes: now.processes_size, queues: now.queues.sort }
  end
end

ROUNDS.times { |round| Workload.new(round).run }
puts "done"
