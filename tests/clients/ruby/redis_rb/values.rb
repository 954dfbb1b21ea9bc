# frozen_string_literal: true

require_relative "steps"

# Steps about data: every type, what is large, binary, about to expire, or of the wrong type.
class Values < Steps
  STEPS = %i[hot strings collections expiry binary scans wrong].freeze
  HOT_PASSES = 10

  # What a cache is for: the same few reads, again and again, by two programs. And then a change.
  def hot
    redis = client
    other = client
    %w[1 2].each do |version|
      say "write", write_hot(redis, version)
      first = read_hot(redis)
      say "read", first
      passes = [redis, other].cycle(HOT_PASSES).map { |reader| read_hot(reader) }
      say "different", passes.count { |pass| pass != first }
    end
    say "pipelined", redis.pipelined { |pipe| 10.times { |number| pipe.get("hot:#{number}") } }
  end

  def strings
    redis = client
    say "set", redis.set("greeting", "hello")
    %w[cold warm warmer].each { |again| say again, redis.get("greeting") }
    say "nil", redis.get("missing")
    say "set nx", redis.set("greeting", "other", nx: true)
    say "set xx ex", redis.set("greeting", "newer", xx: true, ex: 100)
    say "set get", redis.set("greeting", "newest", get: true)
    say "read your write", redis.get("greeting")
    say "getset", redis.getset("greeting", "latest")
    say "setnx", [redis.setnx("greeting", "no"), redis.setnx("fresh", "yes")]
    say "append", [redis.append("greeting", "!"), redis.strlen("greeting"), redis.getrange("greeting", 1, 3)]
    say "setrange", [redis.setrange("greeting", 2, "XX"), redis.get("greeting")]
    say "mset", [redis.mset("a", 1, "b", 2), redis.mapped_mset("c" => 3), redis.msetnx("a", 9, "z", 9)]
    2.times { say "mget", [redis.mget("a", "b", "none"), redis.mapped_mget("c", "z")] }
    say "incr", [redis.incr("counter"), redis.incrby("counter", 5), redis.decr("counter"), redis.incrbyfloat("float", 1.5)]
    say "bits", [redis.setbit("bits", 9, 1), redis.getbit("bits", 9), redis.bitcount("bits"), redis.bitpos("bits", 1)]
    say "getdel", [redis.getdel("a"), redis.get("a"), redis.getex("b", ex: 100), redis.ttl("b") > 90]
    say "rename", [redis.rename("counter", "renamed"), redis.get("counter"), redis.get("renamed"), redis.renamenx("renamed", "b")]
    say "copy", [redis.copy("renamed", "copied"), redis.get("copied"), redis.type("copied"), redis.type("missing")]
    say "dump", [redis.restore("restored", 0, redis.dump("copied")), redis.get("restored")]
    say "exists", [redis.exists("restored", "copied", "missing"), redis.exists?("restored"), redis.exists?("missing")]
    say "del", [redis.del("restored", "missing"), redis.unlink("copied"), redis.get("copied"), redis.touch("renamed")]
    say "object", [redis.object("encoding", "greeting"), redis.call("OBJECT", "REFCOUNT", "greeting")]
  end

  def collections
    redis = client
    say "hset", [redis.hset("hash", "name", "Ada"), redis.hset("hash", { "born" => 1815 }), redis.mapped_hmset("hash", { pi: 3.14 }), redis.hsetnx("hash", "name", "x")]
    2.times do
      say "hash", [redis.hgetall("hash").sort, redis.hget("hash", "name"), redis.hmget("hash", "name", "none"),
                   redis.mapped_hmget("hash", "born"), redis.hkeys("hash").sort, redis.hvals("hash").sort,
                   redis.hlen("hash"), redis.hexists("hash", "name"), redis.hgetall("missing")]
    end
    say "hincr", [redis.hincrby("hash", "born", 1), redis.hincrbyfloat("hash", "pi", 0.5), redis.hdel("hash", "name", "none"), redis.hgetall("hash").sort]
    say "push", [redis.rpush("list", %w[a b c]), redis.lpush("list", "z"), redis.lpushx("none", "x"), redis.rpushx("list", "d")]
    2.times { say "list", [redis.lrange("list", 0, -1), redis.lindex("list", 1), redis.llen("list"), redis.lindex("list", 99)] }
    say "list", [redis.linsert("list", :before, "b", "between"), redis.lset("list", 0, "Z"), redis.lrem("list", 1, "c"), redis.lmove("list", "other", "LEFT", "RIGHT"),
                 redis.rpoplpush("list", "other"), redis.lpop("list"), redis.rpop("list", 2), redis.lrange("list", 0, -1), redis.lrange("other", 0, -1)]
    say "sadd", [redis.sadd("set", %w[a b c]), redis.sadd?("set", "a"), redis.sadd("set2", %w[b c d])]
    2.times do
      say "set", [redis.smembers("set").sort, redis.sismember("set", "a"), redis.smismember("set", "a", "z"), redis.scard("set"),
                  redis.sinter("set", "set2").sort, redis.sunion("set", "set2").sort, redis.sdiff("set", "set2").sort]
    end
    say "stores", [redis.sinterstore("inter", "set", "set2"), redis.smove("set", "set2", "a"), redis.srem("set", "b"), redis.srem?("set", "b"), redis.srandmember("set"), redis.spop("set")]
    say "zadd", [redis.zadd("zset", [[1, "one"], [2.5, "two"], [3, "three"]]), redis.zadd("zset", 9, "one", nx: true), redis.zadd("zset", 1, "one", incr: true), redis.zincrby("zset", 0.5, "two")]
    2.times do
      say "zset", [redis.zrange("zset", 0, -1), redis.zrange("zset", 0, -1, with_scores: true), redis.zrevrange("zset", 0, 0),
                   redis.zrangebyscore("zset", 2.5, "+inf", with_scores: true, limit: [0, 1]), redis.zrange("zset", 2, 3, by_score: true),
                   redis.zscore("zset", "two"), redis.zscore("zset", "none"), redis.zmscore("zset", "one", "none"),
                   redis.zrank("zset", "two"), redis.zrevrank("zset", "two"), redis.zcard("zset"), redis.zcount("zset", "-inf", 2)]
    end
    say "zstores", [redis.zunionstore("zunion", %w[zset zset], weights: [1, 2], aggregate: "max"), redis.zrange("zunion", 0, -1, with_scores: true), redis.zpopmin("zset"), redis.zpopmax("zset"), redis.zrange("zset", 0, -1)]
    say "geo", [redis.geoadd("geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"), redis.geodist("geo", "Palermo", "Catania", "km"), redis.geohash("geo", "Palermo")]
    2.times { say "geo", [redis.geopos("geo", ["Palermo", "none"]), redis.georadius("geo", 15, 37, 200, "km", sort: "asc")] }
    say "hyperloglog", [redis.pfadd("log", %w[a b]), redis.pfcount("log"), redis.pfmerge("merged", "log"), redis.pfcount("merged")]
    say "sort", [redis.rpush("sorted", [3, 1, 2]), redis.sort("sorted"), redis.sort("sorted", order: "DESC", store: "kept"), redis.lrange("kept", 0, -1)]
  end

  def expiry
    redis = client
    say "setex", [redis.setex("brief", 100, "value"), redis.psetex("briefer", 100_000, "value")]
    say "ttl", [redis.ttl("brief") > 90, redis.pttl("briefer") > 90_000, redis.ttl("missing")]
    say "warm", [redis.get("brief"), redis.get("brief")]
    say "persist", [redis.persist("brief"), redis.ttl("brief"), redis.expire("brief", 100), redis.expireat("brief", 4_000_000_000)]
    say "at once", [redis.pexpire("brief", 0), redis.get("brief")]
    redis.psetex("shortest", 50, "value")
    eventually { redis.get("shortest").nil? }
    say "gone", [redis.get("shortest"), redis.exists("shortest")]
  end

  def binary
    redis = client
    every = (0..255).map(&:chr).join.b
    say "every byte", [redis.set(every, "#{every}\r\n"), redis.get(every).b == "#{every}\r\n", redis.get(every).b == "#{every}\r\n"]
    say "text", [redis.set("ключ", "значение"), redis.get("ключ") == "значение", redis.get("ключ").encoding]
    say "empty", [redis.set("", ""), redis.get(""), redis.get("")]
    [1 << 14, 1 << 18, 3 << 20].each do |size|
      large = "0123456789\r\n\0\xff".b * (size / 14)
      say "large #{size}", [redis.set("large:#{size}", large), redis.get("large:#{size}").b == large, redis.get("large:#{size}").b == large]
    end
    many = (0...5_000).to_h { |number| ["many:#{number}", "value #{number}"] }
    say "mset", redis.mapped_mset(many)
    2.times { say "mget", redis.mapped_mget(*many.keys) == many }
    say "hash", redis.mapped_hmset("many", many)
    2.times { say "hgetall", redis.hgetall("many") == many }
  end

  # The library's iterators.
  def scans
    redis = client
    redis.flushdb
    redis.pipelined do |pipe|
      500.times do |number|
        pipe.set("scanned:#{number}", number)
        pipe.sadd("scan:set", "member #{number}")
        pipe.hset("scan:hash", "field #{number}", number)
        pipe.zadd("scan:zset", number, "member #{number}")
      end
    end
    digest = ->(items) { [items.uniq.size, Digest::MD5.hexdigest(items.uniq.sort.inspect)] }
    say "scan", digest.call(redis.scan_each(match: "scanned:*", count: 50).to_a)
    say "by type", redis.scan_each(type: "zset").to_a
    say "sscan", digest.call(redis.sscan_each("scan:set", match: "*1*", count: 50).to_a)
    say "hscan", digest.call(redis.hscan_each("scan:hash", count: 50).to_a)
    say "zscan", digest.call(redis.zscan_each("scan:zset", match: "*7*").to_a)
    say "keys", digest.call(redis.keys("scan*"))
    say "dbsize", [redis.dbsize, redis.randomkey.start_with?("scan")]
  end

  def wrong
    redis = client
    redis.set("string", "value")
    failure("wrong type") { redis.lpush("string", "x") }
    2.times { failure("wrong read") { redis.lrange("string", 0, -1) } }
    failure("no number") { redis.incr("string") }
    failure("unknown") { redis.call("NOSUCH", "a") }
    failure("arity") { redis.call("GET") }
    failure("no key") { redis.rename("missing", "x") }
    failure("bad timeout") { redis.setex("string", 0, "x") }
    failure("bad config") { redis.config(:set, "nosuch", "1") }
    failure("database") { redis.select(99) }
    say "usable", client.get("string")
  end

  private

  def write_hot(redis, version)
    redis.pipelined do |pipe|
      pipe.mapped_mset((0...10).to_h { |number| ["hot:#{number}", "#{version}:#{number}"] })
      pipe.hset("hot:hash", "field", version, "other", "value")
      pipe.del("hot:list")
      pipe.rpush("hot:list", [version, "b", "c"])
      pipe.zadd("hot:zset", version.to_f, "member")
      pipe.sadd("hot:set", [version])
    end
  end

  def read_hot(redis)
    [*(0...10).map { |number| redis.get("hot:#{number}") },
     redis.get("hot:missing"), redis.mget("hot:0", "hot:1", "hot:missing"), redis.hgetall("hot:hash").sort,
     redis.hget("hot:hash", "field"), redis.lrange("hot:list", 0, -1), redis.zrange("hot:zset", 0, -1, with_scores: true),
     redis.zscore("hot:zset", "member"), redis.scard("hot:set"), redis.sismember("hot:set", "1"),
     redis.strlen("hot:1"), redis.exists("hot:1")]
  end
end
