# frozen_string_literal: true

require_relative "steps"

# Steps about doing several things at once: pipelines, MULTI, WATCH, scripts.
class Transactions < Steps
  STEPS = %i[pipelines transactions contention scripts].freeze
  WORKERS = 4
  INCREMENTS = 8
  ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
  RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

  def pipelines
    redis = client
    future = nil
    replies = redis.pipelined do |pipe|
      pipe.set("a", 1)
      future = pipe.get("a")
      pipe.incr("a")
      pipe.hset("h", "f", "v")
      pipe.hgetall("h")
      pipe.lrange("none", 0, -1)
      pipe.exists?("a")
    end
    say "replies", [replies, future.value]
    say "empty", redis.pipelined { |_| nil }
    failure("error") do
      redis.pipelined do |pipe|
        pipe.set("a", 5)
        pipe.lpush("a", "x")
        pipe.set("a", 6)
      end
    end
    say "after", redis.get("a")
    replies = redis.pipelined do |pipe|
      300.times do |number|
        pipe.set("k", number)
        pipe.get("k")
        pipe.get("k")
      end
    end
    say "read your writes", replies
    say "within", redis.pipelined { |pipe| pipe.get("a"); pipe.multi { |multi| multi.incr("a"); multi.get("a") }; pipe.get("a") }
    say "queued", [redis.queue("SET", "q", "1"), redis.queue("GET", "q"), redis.commit]
  end

  def transactions
    redis = client
    other = client
    say "multi", redis.multi { |multi| multi.set("a", 1); multi.incr("a"); multi.get("a"); multi.mget("a", "none") }
    say "empty", redis.multi { |_| nil }
    failure("error") { redis.multi { |multi| multi.set("a", 5); multi.lpush("a", "x"); multi.get("a") } }
    failure("refused") { redis.multi { |multi| multi.call("NOSUCH"); multi.set("a", 7) } }
    say "after", redis.get("a")
    redis.set("watched", 1)
    say "watch", redis.watch("watched") { |watching| [watching.get("watched"), watching.multi { |multi| multi.incr("watched") }] }
    conflict = redis.watch("watched", "not yet") do |watching|
      seen = watching.get("watched")
      other.set("watched", 10)
      [seen, watching.get("watched"), watching.multi { |multi| multi.incr("watched") }]
    end
    say "conflict", [conflict, redis.get("watched")]
    redis.watch("watched")
    other.set("watched", 20)
    say "unwatched", [redis.unwatch, redis.multi { |multi| multi.incr("watched") }]
    begin
      redis.watch("watched") { raise ArgumentError, "the block unwatches" }
    rescue ArgumentError => e
      say "raises", [e, redis.get("watched")]
    end
  end

  # The loop of the library's documentation, by several at once: no increment may be lost.
  def contention
    redis = client
    redis.set("contended", 0)
    Array.new(WORKERS) { |worker| Thread.new { count(client, worker) } }.each(&:join)
    say "sum", redis.get("contended")
    say "guarded", redis.get("guarded")
    # One connection, which the library lets one thread at a time use.
    Array.new(WORKERS) { Thread.new { INCREMENTS.times { redis.incr("shared"); redis.get("shared") } } }.each(&:join)
    say "shared", redis.get("shared")
  end

  def scripts
    redis = client
    digest = Digest::SHA1.hexdigest(ADD)
    say "not loaded", [redis.script(:exists, digest), redis.script(:exists, [digest])]
    failure("noscript") { redis.evalsha(digest, ["scripted"], [5]) }
    say "called", by_digest(redis, digest)
    say "get", [redis.get("scripted"), redis.get("scripted")]
    say "called", by_digest(redis, digest)
    say "get", redis.get("scripted")
    say "load", redis.script(:load, ADD) == digest
    say "pipelined", redis.pipelined { |pipe| pipe.evalsha(digest, keys: ["scripted"], argv: [1]); pipe.get("scripted") }
    say "undeclared", [redis.eval("redis.call('SET', 'scripted', 'by script') return 'done'"), redis.get("scripted")]
    say "types", redis.eval("return {1, 'two', {3, {4}}, redis.status_reply('FINE'), false, 'seen', nil, 'not seen'}")
    failure("error") { redis.eval("return redis.error_reply('MINE own words')") }
    failure("raised") { redis.eval("return redis.call('INCR', KEYS[1])", ["scripted"]) }
    failure("syntax") { redis.eval("no lua") }
    failure("kill") { redis.script(:kill) }
  end

  private

  # As Sidekiq and others do: by digest, and the whole script when the server has not got it.
  def by_digest(redis, digest)
    redis.evalsha(digest, keys: ["scripted"], argv: [5])
  rescue Redis::CommandError => e
    raise unless e.message.start_with?("NOSCRIPT")

    redis.eval(ADD, keys: ["scripted"], argv: [5])
  end

  def count(redis, worker)
    INCREMENTS.times do
      loop do
        done = redis.watch("contended") do |watching|
          value = watching.get("contended").to_i
          watching.multi { |multi| multi.set("contended", value + 1) }
        end
        break if done
      end
    end
    INCREMENTS.times do
      sleep 0.001 until redis.set("guard", worker, nx: true, px: 30_000)
      redis.set("guarded", redis.get("guarded").to_i + 1)
      raise "the lock was lost" unless redis.eval(RELEASE, ["guard"], [worker]) == 1
    end
    redis.close
  end
end
