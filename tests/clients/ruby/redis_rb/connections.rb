# frozen_string_literal: true

require "connection_pool"

require_relative "steps"

# Steps about the connection itself: names, pools, databases, users, the server's account of itself.
class Connections < Steps
  STEPS = %i[names pools databases users kills server].freeze

  def names
    redis = client(id: "workload")
    say "name", redis.call("CLIENT", "GETNAME")
    say "setname", [redis.client(:setname, "renamed"), redis.client(:getname)]
    failure("bad name") { redis.client(:setname, "a name") }
    id = redis.call("CLIENT", "ID").to_s
    mine = redis.client(:list).select { |one| one["id"] == id }
    say "listed", mine.map { |one| one.slice("name", "db", "sub", "psub", "multi", "user", "cmd") }
    say "ping", [redis.ping, redis.ping("hello"), redis.echo("hello")]
    say "hello", redis.call("HELLO", "2").each_slice(2).to_a.slice(0, 3)
    failure("hello 9") { redis.call("HELLO", "9") }
    failure("unknown") { redis.call("CLIENT", "NOSUCH") }
    say "connected", [redis.connected?, redis.close, redis.connected?, redis.ping, redis.quit]
  end

  # A pool as Rails and Sidekiq have one.
  def pools
    pool = ConnectionPool.new(size: 3, timeout: TIMEOUT_S) { client }
    threads = Array.new(8) do
      Thread.new { 10.times { pool.with { |redis| redis.incr("pooled"); redis.get("pooled") } } }
    end
    threads.each(&:join)
    say "sum", pool.with { |redis| redis.get("pooled") }
    pool.shutdown(&:close)
    wrapped = ConnectionPool::Wrapper.new(size: 2) { client }
    say "wrapped", [wrapped.set("wrapped", 1), wrapped.get("wrapped"), wrapped.get("wrapped")]
  end

  def databases
    zero = client
    three = client(db: 3)
    say "set", [zero.set("place", "zero"), three.get("place"), three.set("place", "three")]
    2.times { say "get", [zero.get("place"), three.get("place")] }
    say "select", [zero.select(3), zero.get("place"), zero.connection[:db], zero.select(0), zero.get("place")]
    # The library selects anew on a new connection.
    three.close
    say "again", three.get("place")
    say "move", [zero.move("place", 5), zero.get("place"), zero.select(5), zero.get("place"), zero.select(0)]
    say "swap", [zero.swapdb(0, 5), zero.get("place")]
    say "flush", [three.flushdb, three.get("place"), zero.get("place")]
    say "keyspace", zero.info(:keyspace).keys
  end

  def users
    redis = client
    say "setuser", redis.call("ACL", "SETUSER", "alice", "reset", "on", ">secret", "~her:*", "&her:*", "+@all", "-@admin", "-lpush")
    alice = client(username: "alice", password: "secret")
    say "whoami", alice.call("ACL", "WHOAMI")
    say "own", [alice.set("her:key", 1), alice.get("her:key"), alice.get("her:key")]
    say "his", [redis.set("his:key", "secret"), redis.get("his:key"), redis.get("his:key")]
    failure("foreign key") { alice.get("his:key") }
    failure("foreign mget") { alice.mget("her:key", "his:key") }
    failure("foreign command") { alice.lpush("her:list", "x") }
    failure("foreign channel") { alice.publish("news", "x") }
    failure("admin") { alice.config(:get, "*") }
    failure("in multi") { alice.multi { |multi| multi.get("her:key"); multi.get("his:key") } }
    failure("wrong password") { client(username: "alice", password: "guess").get("her:key") }
    failure("nobody") { client(username: "nobody", password: "guess").get("her:key") }
    failure("by auth") { redis.auth("alice", "guess") }
    say "by auth", [redis.auth("alice", "secret"), redis.call("ACL", "WHOAMI")]
    admin = client
    say "taken away", admin.call("ACL", "SETUSER", "alice", "resetkeys", "~other:*")
    failure("no longer") { alice.get("her:key") }
    say "others", admin.get("her:key")
  end

  # The library dials again by itself, once.
  def kills
    killer = client
    victim = client(id: "victim", db: 2)
    say "set", victim.set("survivor", "value")
    id = victim.call("CLIENT", "ID")
    say "kill", [killer.call("CLIENT", "KILL", "ID", id), killer.call("CLIENT", "KILL", "ID", id)]
    say "reconnects", [victim.get("survivor"), victim.call("CLIENT", "ID") > id, victim.call("CLIENT", "GETNAME")]
    address = killer.client(:list).find { |one| one["name"] == "victim" }["addr"]
    say "by address", [killer.client(:kill, address), victim.get("survivor")]
    failure("nobody there") { killer.client(:kill, "127.0.0.1:1") }
    once = client(reconnect_attempts: 0)
    killer.call("CLIENT", "KILL", "ID", once.call("CLIENT", "ID"))
    failure("without a second attempt") { once.get("survivor") }
    say "later", once.get("survivor")
    listener = client(reconnect_attempts: 0)
    id = listener.call("CLIENT", "ID")
    failure("subscriber") { listener.subscribe("news") { |on| on.subscribe { killer.call("CLIENT", "KILL", "ID", id) } } }
    popper = client(reconnect_attempts: 0)
    id = popper.call("CLIENT", "ID")
    killing = once_somebody_waits(killer) { killer.call("CLIENT", "KILL", "ID", id) }
    # Redis closes the connection, and the library asks again on another.
    failure("blocked") { popper.blpop("nothing", timeout: 1) }
    killing.join
    failure("watching") do
      popper.watch("survivor") do |watching|
        killer.call("CLIENT", "KILL", "ID", watching.call("CLIENT", "ID"))
        watching.multi { |multi| multi.get("survivor") }
      end
    end
  end

  # What monitoring asks.
  def server
    redis = client
    info = redis.info
    say "info", %w[redis_version role used_memory uptime_in_seconds executable].map { |key| info.key?(key) }
    say "version", info.values_at("redis_version", "role", "redis_mode")
    say "section", redis.info(:replication).keys
    say "commandstats", redis.info(:commandstats)["info"].keys
    say "command", [redis.call("COMMAND", "COUNT"), redis.call("COMMAND", "INFO", "get")]
    say "getkeys", redis.call("COMMAND", "GETKEYS", "MSET", "a", 1, "b", 2)
    say "config", [redis.config(:get, "maxmemory*").sort, redis.config(:set, "slowlog-max-len", 100), redis.config(:resetstat)]
    say "time", redis.time.size
    say "wait", redis.wait(0, 10)
    say "slowlog", [redis.slowlog(:get, 1).class, redis.slowlog(:reset)]
    say "role", redis.call("ROLE")
    say "lastsave", redis.lastsave.positive?
    say "memory", [redis.call("MEMORY", "USAGE", "missing"), redis.call("DEBUG", "SLEEP", 0)]
  end
end
