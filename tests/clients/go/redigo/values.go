package main

import (
	"bytes"
	"fmt"
	"sort"

	"github.com/gomodule/redigo/redis"
)

// Steps about data: every type, what is large, binary, about to expire, or of the wrong type.

const hotPasses = 10

type command struct {
	name string
	args redis.Args
}

// do runs each command and says what came of it.
func do(connection redis.Conn, commands ...command) {
	for _, one := range commands {
		reply, err := connection.Do(one.name, one.args...)
		say(one.name, reply, err)
	}
}

func of(name string, args ...interface{}) command { return command{name, args} }

// What a cache is for: the same few reads, again and again, by two programs. And then a change.
func hot() {
	connection, other := connect(), connect()
	read := func(reader redis.Conn) string {
		var seen []interface{}
		for number := 0; number < 10; number++ {
			seen = append(seen, must(reader.Do("GET", fmt.Sprintf("hot:%d", number))))
		}
		for _, one := range []command{
			of("GET", "hot:missing"), of("MGET", "hot:0", "hot:1", "hot:missing"), of("HGET", "hot:hash", "field"),
			of("HMGET", "hot:hash", "field", "none"), of("LRANGE", "hot:list", 0, -1),
			of("ZRANGE", "hot:zset", 0, -1, "WITHSCORES"), of("ZSCORE", "hot:zset", "member"), of("SCARD", "hot:set"),
			of("SISMEMBER", "hot:set", "1"), of("STRLEN", "hot:1"), of("EXISTS", "hot:1"),
		} {
			seen = append(seen, must(reader.Do(one.name, one.args...)))
		}
		seen = append(seen, must(redis.StringMap(reader.Do("HGETALL", "hot:hash"))))
		return written(seen)
	}
	for version := 1; version <= 2; version++ {
		args := redis.Args{}
		for number := 0; number < 10; number++ {
			args = args.Add(fmt.Sprintf("hot:%d", number), fmt.Sprintf("%d:%d", version, number))
		}
		do(connection, command{"MSET", args}, of("HSET", "hot:hash", "field", version, "other", "value"), of("DEL", "hot:list"),
			of("RPUSH", "hot:list", version, "b", "c"), of("ZADD", "hot:zset", version, "member"), of("SADD", "hot:set", version))
		first := read(connection)
		say("read", first, nil)
		different := 0
		for pass := 0; pass < hotPasses; pass++ {
			for _, reader := range []redis.Conn{connection, other} {
				if read(reader) != first {
					different++
				}
			}
		}
		say("different", different, nil)
	}
}

func stringValues() {
	connection := connect()
	do(connection,
		of("SET", "greeting", "hello"), of("GET", "greeting"), of("GET", "greeting"), of("GET", "missing"),
		of("SET", "greeting", "other", "NX"), of("SET", "greeting", "newer", "XX", "EX", 100, "GET"), of("GET", "greeting"),
		of("GETSET", "greeting", "newest"), of("APPEND", "greeting", "!"), of("STRLEN", "greeting"),
		of("GETRANGE", "greeting", 1, 3), of("SETRANGE", "greeting", 2, "XX"), of("GET", "greeting"),
		of("MSET", "a", 1, "b", 2.5, "c", true, "d", []byte{0, 255}, "e", nil),
		of("MGET", "a", "b", "c", "d", "e", "none"), of("MGET", "a", "b", "c", "d", "e", "none"),
		of("INCR", "a"), of("INCRBY", "a", 5), of("INCRBYFLOAT", "b", 1.5), of("MGET", "a", "b"),
		of("SETBIT", "bits", 9, 1), of("GETBIT", "bits", 9), of("BITCOUNT", "bits"), of("BITPOS", "bits", 1),
		of("BITFIELD", "bits", "SET", "u8", 0, 200, "GET", "u8", 0), of("BITFIELD_RO", "bits", "GET", "u8", 0),
		of("GETDEL", "a"), of("GET", "a"), of("RENAME", "b", "renamed"), of("MGET", "b", "renamed"),
		of("COPY", "renamed", "copied"), of("GET", "copied"), of("TYPE", "copied"), of("TYPE", "missing"),
		of("EXISTS", "copied", "missing", "copied"), of("DEL", "copied", "missing"), of("GET", "copied"),
		of("UNLINK", "renamed"), of("TOUCH", "greeting", "missing"), of("OBJECT", "ENCODING", "greeting"))
	dumped := must(connection.Do("DUMP", "greeting"))
	do(connection, of("RESTORE", "restored", 0, dumped), of("GET", "restored"))
}

func collections() {
	connection := connect()
	do(connection, of("HSET", "hash", "name", "Ada", "born", 1815), of("HSETNX", "hash", "name", "Bob"), of("HMSET", "hash", "pi", 3.14))
	for again := 0; again < 2; again++ {
		do(connection, of("HGETALL", "hash"), of("HGET", "hash", "name"), of("HMGET", "hash", "name", "none"), of("HKEYS", "hash"),
			of("HVALS", "hash"), of("HLEN", "hash"), of("HEXISTS", "hash", "name"), of("HSTRLEN", "hash", "name"), of("HGETALL", "missing"))
	}
	do(connection, of("HINCRBY", "hash", "born", 1), of("HINCRBYFLOAT", "hash", "pi", 0.5), of("HDEL", "hash", "name", "none"), of("HGETALL", "hash"),
		of("RPUSH", "list", "a", "b", "c"), of("LPUSH", "list", "z"), of("LPUSHX", "none", "x"))
	for again := 0; again < 2; again++ {
		do(connection, of("LRANGE", "list", 0, -1), of("LINDEX", "list", 1), of("LLEN", "list"), of("LINDEX", "list", 99), of("LPOS", "list", "b"))
	}
	do(connection, of("LINSERT", "list", "BEFORE", "b", "between"), of("LSET", "list", 0, "Z"), of("LREM", "list", 1, "c"),
		of("LMOVE", "list", "other", "LEFT", "RIGHT"), of("RPOPLPUSH", "list", "other"), of("LPOP", "list", 2), of("LRANGE", "list", 0, -1),
		of("LRANGE", "other", 0, -1), of("SADD", "set", "a", "b", "c"), of("SADD", "set2", "b", "c", "d"))
	for again := 0; again < 2; again++ {
		for _, one := range []command{of("SMEMBERS", "set"), of("SINTER", "set", "set2"), of("SUNION", "set", "set2"), of("SDIFF", "set", "set2")} {
			reply, err := sorted(connection.Do(one.name, one.args...))
			say(one.name, reply, err)
		}
		do(connection, of("SISMEMBER", "set", "a"), of("SMISMEMBER", "set", "a", "z"), of("SCARD", "set"))
	}
	do(connection, of("SINTERSTORE", "inter", "set", "set2"), of("SMOVE", "set", "set2", "a"), of("SREM", "set", "b"), of("SRANDMEMBER", "set"),
		of("SPOP", "set"), of("ZADD", "zset", 1, "one", 2.5, "two", 3, "three"), of("ZADD", "zset", "NX", 9, "one"), of("ZINCRBY", "zset", 1, "one"))
	for again := 0; again < 2; again++ {
		do(connection, of("ZRANGE", "zset", 0, -1), of("ZRANGE", "zset", 0, -1, "WITHSCORES"), of("ZREVRANGE", "zset", 0, 0),
			of("ZRANGEBYSCORE", "zset", 2.5, "+inf", "WITHSCORES", "LIMIT", 0, 1), of("ZSCORE", "zset", "two"), of("ZSCORE", "zset", "none"),
			of("ZMSCORE", "zset", "one", "none"), of("ZRANK", "zset", "two"), of("ZCARD", "zset"), of("ZCOUNT", "zset", "-inf", 2))
	}
	do(connection, of("ZUNIONSTORE", "zunion", 2, "zset", "zset", "WEIGHTS", 1, 2), of("ZRANGE", "zunion", 0, -1, "WITHSCORES"),
		of("ZPOPMIN", "zset"), of("ZPOPMAX", "zset"), of("ZRANGE", "zset", 0, -1),
		of("GEOADD", "geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"), of("GEODIST", "geo", "Palermo", "Catania", "km"))
	for again := 0; again < 2; again++ {
		positions, err := redis.Positions(connection.Do("GEOPOS", "geo", "Palermo", "none"))
		say("positions", []bool{positions[0] != nil, positions[1] != nil}, err)
		do(connection, of("GEOSEARCH", "geo", "FROMLONLAT", 15, 37, "BYRADIUS", 200, "km", "ASC"), of("GEOHASH", "geo", "Palermo"))
	}
	do(connection, of("PFADD", "log", "a", "b"), of("PFCOUNT", "log"), of("PFMERGE", "merged", "log"), of("PFCOUNT", "merged"),
		of("RPUSH", "sorted", 3, 1, 2), of("SORT", "sorted"), of("SORT", "sorted", "DESC", "STORE", "kept"), of("LRANGE", "kept", 0, -1))
}

type person struct {
	Name   string  `redis:"name"`
	Born   int     `redis:"born"`
	Score  float64 `redis:"score"`
	Active bool    `redis:"active"`
	Raw    []byte  `redis:"raw"`
}

// Hashes from structures and back, and replies in Go's types.
func structs() {
	connection := connect()
	ada := person{"Ada", 1815, 2.5, true, []byte{0, 255}}
	reply, err := connection.Do("HMSET", redis.Args{}.Add("person").AddFlat(&ada)...)
	say("stored", reply, err)
	for again := 0; again < 3; again++ {
		var read person
		say("read", read, redis.ScanStruct(must(redis.Values(connection.Do("HGETALL", "person"))).([]interface{}), &read))
		say("the same", read.Name == ada.Name && read.Born == ada.Born && read.Active && bytes.Equal(read.Raw, ada.Raw), nil)
	}
	do(connection, of("RPUSH", "numbers", 1, 2, 3), of("ZADD", "scores", 1, "a", 2.5, "b"))
	for again := 0; again < 2; again++ {
		ints, err := redis.Ints(connection.Do("LRANGE", "numbers", 0, -1))
		say("ints", ints, err)
		scores, err := redis.StringMap(connection.Do("ZRANGE", "scores", 0, -1, "WITHSCORES"))
		say("map", scores, err)
		number, err := redis.Int(connection.Do("GET", "nothing"))
		say("nil", number, err)
		_, err = redis.Int(connection.Do("GET", "person"))
		say("wrong", nil, err)
	}
	var name string
	var born int
	_, err = redis.Scan(must(redis.Values(connection.Do("HMGET", "person", "name", "born"))).([]interface{}), &name, &born)
	say("scan", []interface{}{name, born}, err)
}

func expiry() {
	connection := connect()
	do(connection, of("SETEX", "brief", 100, "value"), of("PSETEX", "briefer", 100_000, "value"), of("GET", "brief"), of("GET", "brief"),
		of("TTL", "missing"), of("PERSIST", "brief"), of("TTL", "brief"), of("EXPIREAT", "brief", 4_000_000_000), of("EXPIRETIME", "brief"),
		of("PEXPIRE", "brief", 0), of("GET", "brief"))
	left, err := redis.Int(connection.Do("PTTL", "briefer"))
	say("left", left > 90_000, err)
	must(connection.Do("SET", "shortest", "value", "PX", 50))
	until(func() bool { return must(connection.Do("GET", "shortest")) == nil })
	do(connection, of("GET", "shortest"), of("EXISTS", "shortest"))
}

func binary() {
	connection := connect()
	every := make([]byte, 256)
	for index := range every {
		every[index] = byte(index)
	}
	do(connection, of("SET", every, append(every, "\r\n"...)), of("GET", every), of("GET", every), of("SET", "", ""), of("GET", ""), of("GET", ""))
	for _, size := range []int{1 << 14, 1 << 18, 3 << 20} {
		large := bytes.Repeat([]byte("0123456789\r\n\x00\xff"), size/14)
		key := fmt.Sprintf("large:%d", size)
		do(connection, of("SET", key, large))
		for again := 0; again < 2; again++ {
			read, err := redis.Bytes(connection.Do("GET", key))
			say("the same", bytes.Equal(read, large), err)
		}
	}
	pairs, keys, values := redis.Args{}, redis.Args{}, ""
	for number := 0; number < 5000; number++ {
		key, value := fmt.Sprintf("many:%d", number), fmt.Sprintf("value %d", number)
		pairs, keys, values = pairs.Add(key, value), keys.Add(key), values+value
	}
	do(connection, command{"MSET", pairs}, command{"HSET", redis.Args{}.Add("many").Add(pairs...)})
	for again := 0; again < 2; again++ {
		read, err := redis.ByteSlices(connection.Do("MGET", keys...))
		say("mget", string(bytes.Join(read, nil)) == values, err)
		hash, err := redis.StringMap(connection.Do("HGETALL", "many"))
		say("hgetall", hash, err)
	}
}

func scans() {
	connection := connect()
	must(connection.Do("FLUSHDB"))
	for number := 0; number < 500; number++ {
		must(nil, connection.Send("SET", fmt.Sprintf("scanned:%d", number), number))
		must(nil, connection.Send("SADD", "scan:set", fmt.Sprintf("member %d", number)))
		must(nil, connection.Send("HSET", "scan:hash", fmt.Sprintf("field %d", number), number))
		must(nil, connection.Send("ZADD", "scan:zset", number, fmt.Sprintf("member %d", number)))
	}
	filled, err := redis.Values(connection.Do(""))
	say("filled", len(filled), err)
	for _, scan := range []command{
		of("SCAN"), of("SSCAN", "scan:set"), of("HSCAN", "scan:hash"), of("ZSCAN", "scan:zset"),
	} {
		seen := map[string]bool{}
		for cursor := "0"; ; {
			args := append(redis.Args{}, scan.args...).Add(cursor, "MATCH", "*1*", "COUNT", 50)
			page := must(redis.Values(connection.Do(scan.name, args...))).([]interface{})
			for _, item := range must(redis.Strings(page[1], nil)).([]string) {
				seen[item] = true
			}
			if cursor = must(redis.String(page[0], nil)).(string); cursor == "0" {
				break
			}
		}
		items := []string{}
		for item := range seen {
			items = append(items, item)
		}
		sort.Strings(items)
		say(scan.name, items, nil)
	}
	keys, err := sorted(connection.Do("KEYS", "scan:*"))
	say("keys", keys, err)
	do(connection, of("DBSIZE"))
}

func wrong() {
	connection := connect()
	do(connection, of("SET", "string", "value"), of("LPUSH", "string", "x"), of("LRANGE", "string", 0, -1), of("LRANGE", "string", 0, -1),
		of("INCR", "string"), of("NOSUCH", "a"), of("GET"), of("RENAME", "missing", "x"), of("SET", "string", "x", "EX", 0),
		of("CONFIG", "SET", "nosuch", 1), of("SELECT", 99), of("EVAL", "return 1", "x"), of("GET", "string"))
	say("broken", nil, connection.Err())
}
