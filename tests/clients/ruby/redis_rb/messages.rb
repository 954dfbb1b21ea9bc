# frozen_string_literal: true

require_relative "steps"

# Steps about waiting for others: pub/sub, blocking pops, streams with consumer groups, MONITOR.
class Messages < Steps
  STEPS = %i[subscriptions keyspace blocking streams monitor].freeze

  def subscriptions
    redis = client
    redis.set("subject", "old")
    say "cached", [redis.get("subject"), redis.get("subject")]
    listener = client
    listener.subscribe("news", "more") do |on|
      on.subscribe { |channel, count| say "subscribed", [channel, count] }
      on.unsubscribe { |channel, count| say "unsubscribed", [channel, count] }
      on.message { |channel, message| hear(listener, redis, channel, message) }
      # A program's other threads go on with other connections.
      Thread.new { publish(client) }
    end
    say "usable", [listener.set("after", 1), listener.get("after")]
    listener.psubscribe("pattern:*", "none:*") do |on|
      on.psubscribe do |pattern, count|
        say "psubscribed", [pattern, count]
        [redis.publish("pattern:a", "one"), redis.publish("other", "two"), redis.publish("none:", "last")] if count == 2
      end
      on.punsubscribe { |pattern, count| say "punsubscribed", [pattern, count] }
      on.pmessage do |pattern, channel, message|
        say "pmessage", [pattern, channel, message]
        listener.punsubscribe("pattern:*", "none:*") if message == "last"
      end
    end
    say "usable", listener.get("after")
    failure("timeout") { client(reconnect_attempts: 0).subscribe_with_timeout(0.05, "silence") { |_| nil } }
    eventually { redis.pubsub(:channels).empty? }
    say "nobody", [redis.publish("silence", "x"), redis.pubsub(:numsub, "news", "none"), redis.pubsub(:numpat)]
  end

  def keyspace
    redis = client
    redis.config(:set, "notify-keyspace-events", "KEA")
    listener = client
    listener.psubscribe("__keyspace@0__:noted*") do |on|
      on.psubscribe { redis.set("noted", 1); redis.incr("noted") }
      on.pmessage do |_, channel, event|
        say "event", [channel, event, (redis.get("noted") if event != "expire")]
        redis.pexpire("noted", 20) if event == "incrby"
        listener.punsubscribe if event == "expired"
      end
    end
    redis.config(:set, "notify-keyspace-events", "")
  end

  def blocking
    redis = client
    pusher = client
    say "ready", [redis.rpush("queue", %w[a b]), redis.blpop("queue", timeout: 1), redis.brpop("queue", timeout: 1)]
    say "nothing", [redis.blpop("queue", timeout: 0.05), redis.bzpopmin("zqueue", timeout: 0.05)]
    %i[blpop brpop].each do |method|
      say "cached", redis.llen("queue")
      pushing = once_somebody_waits(pusher) { pusher.rpush("queue", method.to_s) }
      say method, redis.public_send(method, %w[missing queue], timeout: 10)
      pushing.join
      say "left", [redis.llen("queue"), redis.lrange("queue", 0, -1)]
    end
    pushing = once_somebody_waits(pusher) { pusher.rpush("queue", "moved") }
    say "brpoplpush", redis.brpoplpush("queue", "working", timeout: 10)
    pushing.join
    pushing = once_somebody_waits(pusher) { pusher.rpush("queue", "again") }
    say "blmove", redis.blmove("queue", "working", "LEFT", "RIGHT", timeout: 10)
    pushing.join
    say "working", redis.lrange("working", 0, -1)
    pushing = once_somebody_waits(pusher) { pusher.zadd("zqueue", [[1, "first"], [2, "second"]]) }
    say "bzpopmin", redis.bzpopmin("zqueue", timeout: 10)
    pushing.join
    say "zleft", redis.zrange("zqueue", 0, -1)
    # A client that gives up waiting hangs up. What comes later goes to whoever waits then.
    impatient = client(timeout: 0.2, reconnect_attempts: 0)
    failure("gives up") { impatient.call("BLPOP", "abandoned", 10) }
    eventually { redis.info(:clients)["blocked_clients"] == "0" }
    say "kept", [redis.rpush("abandoned", "value"), redis.lrange("abandoned", 0, -1)]
  end

  def streams
    redis = client
    (1..4).each { |number| say "xadd", redis.xadd("stream", { "number" => number, "raw" => "\0\x7f" }, id: "#{number}-1") }
    2.times { say "read", [redis.xlen("stream"), redis.xrange("stream"), redis.xrevrange("stream", count: 2)] }
    say "xread", [redis.xread("stream", "3-1", count: 10), redis.xread("stream", "$")]
    say "group", [redis.xgroup(:create, "stream", "group", "0"), redis.xgroup(:create, "made", "group", "$", mkstream: true)]
    failure("group again") { redis.xgroup(:create, "stream", "group", "0") }
    say "alice", redis.xreadgroup("group", "alice", "stream", ">", count: 3)
    say "bob", redis.xreadgroup("group", "bob", "stream", ">", count: 1)
    say "ack", redis.xack("stream", "group", %w[1-1 9-9])
    say "pending", redis.xpending("stream", "group")
    say "pending detail", redis.xpending("stream", "group", "-", "+", 10).map { |one| one.slice("entry_id", "consumer", "count") }
    say "own history", redis.xreadgroup("group", "alice", "stream", "0")
    say "claim", redis.xclaim("stream", "group", "bob", 0, "2-1")
    say "autoclaim", redis.xautoclaim("stream", "group", "carol", 0, "0-0", count: 1)
    say "consumers", redis.xinfo(:consumers, "stream", "group").map { |one| one.slice("name", "pending") }
    say "groups", [redis.xinfo(:groups, "stream"), redis.xinfo(:stream, "stream")["length"]]
    say "del", [redis.xdel("stream", "1-1"), redis.xtrim("stream", 2), redis.xrange("stream")]
    adder = client
    adding = once_somebody_waits(adder) { adder.xadd("stream", { "late" => "yes" }, id: "10-1") }
    say "blocked", redis.xread("stream", "$", block: 10_000)
    adding.join
    say "blocked group", redis.xreadgroup("group", "alice", "stream", ">", block: 10_000, count: 9)
    say "timeout", redis.xread("stream", "$", block: 30)
    say "destroy", redis.xgroup(:destroy, "stream", "group")
  end

  def monitor
    watcher = client
    other = client
    watcher.monitor do |line|
      other.set("monitored", "value") if line == "OK"
      break say("seen", line[/"SET".*/]) if line.include?('"monitored"')
    end
    watcher.close
    say "usable", other.get("monitored")
  end

  private

  def hear(listener, reader, channel, message)
    say "message", [channel, message]
    say "looked", reader.get("subject") if message == "look"
    # Without names, in the order of a table on the server, which is another one on each.
    %w[news more].each { |heard| listener.unsubscribe(heard) } if message == "last"
  end

  def publish(publisher)
    eventually { publisher.pubsub(:numsub, "more")[1].to_i.positive? }
    publisher.publish("news", "one")
    publisher.publish("more", "\x7f\r\n\0two")
    publisher.publish("nobody", "three")
    publisher.set("subject", "new")
    publisher.publish("news", "look")
    publisher.publish("news", "last")
    publisher.close
  end
end
