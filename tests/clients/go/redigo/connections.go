package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// Steps about the connection itself: names, pools, databases, users, the server's account of itself.

func names() {
	connection := connect(redis.DialClientName("workload"))
	do(connection, of("CLIENT", "GETNAME"), of("CLIENT", "SETNAME", "renamed"), of("CLIENT", "GETNAME"), of("CLIENT", "SETNAME", "a name"),
		of("PING"), of("PING", "hello"), of("ECHO", "hello"), of("CLIENT", "NOSUCH"), of("HELLO", 9), of("CLIENT", "NO-EVICT", "ON"),
		of("CLIENT", "REPLY", "ON"), of("CLIENT", "GETREDIR"), of("CLIENT", "TRACKINGINFO"))
	id := must(redis.Int(connection.Do("CLIENT", "ID"))).(int)
	list := must(redis.String(connection.Do("CLIENT", "LIST", "ID", id))).(string)
	for _, field := range strings.Fields(list) {
		for _, known := range []string{"name=", "flags=", "db=", "sub=", "psub=", "multi=", "user=", "cmd="} {
			if strings.HasPrefix(field, known) {
				say("listed", field, nil)
			}
		}
	}
	do(connection, of("RESET"), of("CLIENT", "GETNAME"), of("QUIT"), of("PING"))
}

// A pool whose connections are looked at before they are used, as redigo's documentation has it.
func pools() {
	dialled := 0
	pool := &redis.Pool{
		MaxIdle: 3, MaxActive: 3, Wait: true,
		Dial: func() (redis.Conn, error) {
			dialled++
			return dial()
		},
		TestOnBorrow: func(connection redis.Conn, _ time.Time) error {
			_, err := connection.Do("PING")
			return err
		},
	}
	defer pool.Close()
	var group sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for done := 0; done < 10; done++ {
				connection := pool.Get()
				must(connection.Do("INCR", "pooled"))
				must(connection.Do("GET", "pooled"))
				connection.Close()
			}
		}()
	}
	group.Wait()
	connection := pool.Get()
	do(connection, of("GET", "pooled"))
	say("connections", []bool{dialled <= 3, pool.ActiveCount() <= 3}, nil)
	// What a connection is in the middle of is undone when it goes back.
	do(connection, of("WATCH", "pooled"), of("MULTI"), of("INCR", "pooled"))
	connection.Close()
	connection = pool.Get()
	do(connection, of("GET", "pooled"), of("EXEC"))
	must(nil, connection.Send("SUBSCRIBE", "news"))
	must(nil, connection.Flush())
	must(connection.Receive())
	connection.Close()
	connection = pool.Get()
	do(connection, of("GET", "pooled"))
	id := must(redis.Int(connection.Do("CLIENT", "ID"))).(int)
	connection.Close()
	killer := connect()
	do(killer, of("CLIENT", "KILL", "ID", id))
	connection = pool.Get()
	do(connection, of("GET", "pooled"))
	say("another", must(redis.Int(connection.Do("CLIENT", "ID"))) != id, nil)
	connection.Close()
}

func databases() {
	zero, three := connect(), connect(redis.DialDatabase(3))
	do(zero, of("SET", "place", "zero"))
	do(three, of("GET", "place"), of("SET", "place", "three"))
	for again := 0; again < 2; again++ {
		do(zero, of("GET", "place"))
		do(three, of("GET", "place"))
	}
	do(zero, of("SELECT", 3), of("GET", "place"), of("SELECT", 0), of("GET", "place"), of("MOVE", "place", 5), of("GET", "place"),
		of("SELECT", 5), of("GET", "place"), of("SELECT", 0), of("SWAPDB", 0, 5), of("GET", "place"))
	do(three, of("FLUSHDB"), of("GET", "place"))
	do(zero, of("GET", "place"), of("COPY", "place", "place", "DB", 7), of("DBSIZE"))
	byURL, err := redis.DialURL(fmt.Sprintf("redis://%s/7", address), login()...)
	must(nil, err)
	do(byURL, of("GET", "place"), of("GET", "place"))
	byURL.Close()
}

func users() {
	connection := connect()
	do(connection, of("ACL", "SETUSER", "alice", "reset", "on", ">secret", "~her:*", "&her:*", "+@all", "-@admin", "-lpush"))
	alice := connect(redis.DialUsername("alice"), redis.DialPassword("secret"))
	do(alice, of("ACL", "WHOAMI"), of("SET", "her:key", 1), of("GET", "her:key"), of("GET", "her:key"))
	do(connection, of("SET", "his:key", "secret"), of("GET", "his:key"), of("GET", "his:key"))
	do(alice, of("GET", "his:key"), of("MGET", "her:key", "his:key"), of("LPUSH", "her:list", "x"), of("PUBLISH", "news", "x"),
		of("CONFIG", "GET", "*"), of("MULTI"), of("GET", "her:key"), of("GET", "his:key"), of("EXEC"))
	_, err := dial(redis.DialUsername("alice"), redis.DialPassword("guess"))
	say("wrong password", nil, err)
	_, err = dial(redis.DialUsername("nobody"), redis.DialPassword("guess"))
	say("nobody", nil, err)
	do(connection, of("ACL", "SETUSER", "alice", "resetkeys", "~other:*"))
	do(alice, of("GET", "her:key"), of("AUTH", "alice", "guess"), of("ACL", "WHOAMI"), of("AUTH", "alice", "secret"), of("GET", "her:key"))
	do(connection, of("GET", "her:key"))
}

// A killed connection is of no use any more; redigo says so, and a program dials another.
func kills() {
	killer := connect()
	kill := func(victim redis.Conn) {
		do(killer, of("CLIENT", "KILL", "ID", must(victim.Do("CLIENT", "ID"))))
	}
	victim := connect()
	do(victim, of("SET", "survivor", "value"), of("GET", "survivor"))
	kill(victim)
	_, err := victim.Do("GET", "survivor")
	say("killed", []bool{err != nil, victim.Err() != nil}, nil)
	_, err = victim.Do("GET", "survivor")
	say("still", err != nil, nil)
	do(connect(), of("GET", "survivor"))
	subscriber := redis.PubSubConn{Conn: connect()}
	id := must(subscriber.Conn.Do("CLIENT", "ID"))
	must(nil, subscriber.Subscribe("news"))
	hear(subscriber)
	do(killer, of("CLIENT", "KILL", "ID", id))
	_, isError := subscriber.Receive().(error)
	say("subscriber", isError, nil)
	popper := connect()
	id = must(popper.Do("CLIENT", "ID"))
	over := beside(func(killer redis.Conn) { must(killer.Do("CLIENT", "KILL", "ID", id)) })
	_, err = popper.Do("BLPOP", "nothing", 10)
	say("blocked", err != nil, nil)
	<-over
	watcher := connect()
	do(watcher, of("WATCH", "survivor"), of("MULTI"), of("SET", "survivor", "never"))
	list := must(redis.String(killer.Do("CLIENT", "LIST"))).(string)
	say("in multi", strings.Count(list, "multi=1"), nil)
	watcher.Close()
	do(killer, of("GET", "survivor"))
}

// What monitoring asks.
func server() {
	connection := connect()
	info := must(redis.String(connection.Do("INFO"))).(string)
	for _, known := range []string{"redis_version:", "role:", "used_memory:", "uptime_in_seconds:", "db0:"} {
		say(known, strings.Contains(info, "\r\n"+known), nil)
	}
	do(connection, of("COMMAND", "COUNT"), of("COMMAND", "INFO", "get"), of("COMMAND", "GETKEYS", "MSET", "a", 1, "b", 2),
		of("CONFIG", "GET", "maxmemory-policy"), of("CONFIG", "SET", "slowlog-max-len", 100), of("ROLE"), of("WAIT", 0, 10),
		of("SLOWLOG", "RESET"), of("MEMORY", "USAGE", "missing"), of("OBJECT", "FREQ", "missing"), of("LATENCY", "LATEST"))
	moment, err := redis.Values(connection.Do("TIME"))
	say("time", len(moment), err)
}
