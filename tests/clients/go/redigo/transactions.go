package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// Steps about doing several things at once: pipelines, MULTI, WATCH, scripts.

const (
	workers    = 4
	increments = 8
)

func pipelines() {
	connection := connect()
	for _, one := range []command{
		of("SET", "a", 1), of("GET", "a"), of("INCR", "a"), of("LPUSH", "a", "x"), of("GET", "a"), of("HSET", "h", "f", "v"), of("HGETALL", "h"),
	} {
		must(nil, connection.Send(one.name, one.args...))
	}
	must(nil, connection.Flush())
	for reply := 0; reply < 7; reply++ {
		received, err := connection.Receive()
		say("received", received, err)
	}
	for number := 0; number < 300; number++ {
		must(nil, connection.Send("SET", "k", number))
		must(nil, connection.Send("GET", "k"))
		must(nil, connection.Send("GET", "k"))
	}
	reply, err := connection.Do("")
	say("read your writes", reply, err)
	// One goroutine sends and another receives, which redigo allows.
	received := make(chan interface{})
	go func() {
		for number := 0; number < 2000; number++ {
			received <- must(connection.Receive())
		}
		close(received)
	}()
	go func() {
		for number := 0; number < 1000; number++ {
			must(nil, connection.Send("INCR", "counter"))
			must(nil, connection.Send("GET", "counter"))
			must(nil, connection.Flush())
		}
	}()
	all := []interface{}{}
	for one := range received {
		all = append(all, one)
	}
	say("streamed", all, nil)
}

func transactions() {
	connection, other := connect(), connect()
	for _, one := range []command{of("MULTI"), of("SET", "a", 1), of("INCR", "a"), of("GET", "a"), of("LPUSH", "a", "x")} {
		must(nil, connection.Send(one.name, one.args...))
	}
	do(connection, of("EXEC"), of("MULTI"), of("EXEC"), of("MULTI"), of("SET", "a", "never"), of("DISCARD"), of("GET", "a"),
		of("MULTI"), of("NOSUCH"), of("SET", "a", "never"), of("EXEC"), of("EXEC"), of("GET", "a"), of("SET", "watched", 1),
		of("WATCH", "watched"), of("GET", "watched"), of("MULTI"), of("INCR", "watched"), of("EXEC"), of("WATCH", "watched", "not yet"),
		of("GET", "watched"))
	do(other, of("SET", "watched", 10))
	do(connection, of("GET", "watched"), of("MULTI"), of("INCR", "watched"), of("EXEC"), of("GET", "watched"), of("WATCH", "not yet"))
	do(other, of("SET", "not yet", 1))
	do(connection, of("UNWATCH"), of("MULTI"), of("INCR", "watched"), of("EXEC"))
}

// The loop of redigo's documentation, by several at once: no increment may be lost.
func contention() {
	pool := &redis.Pool{MaxIdle: workers, Dial: func() (redis.Conn, error) { return dial() }}
	defer pool.Close()
	release := redis.NewScript(1, "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
	var group sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			connection := pool.Get()
			defer connection.Close()
			for done := 0; done < increments; {
				must(connection.Do("WATCH", "contended"))
				value, err := redis.Int(connection.Do("GET", "contended"))
				if err != redis.ErrNil {
					must(nil, err)
				}
				must(nil, connection.Send("MULTI"))
				must(nil, connection.Send("SET", "contended", value+1))
				if must(connection.Do("EXEC")) != nil {
					done++
				}
			}
			for done := 0; done < increments; done++ {
				for must(connection.Do("SET", "guard", worker, "NX", "PX", 30_000)) == nil {
					time.Sleep(time.Millisecond)
				}
				value, _ := redis.Int(connection.Do("GET", "guarded"))
				must(connection.Do("SET", "guarded", value+1))
				if freed := must(redis.Int(release.Do(connection, "guard", worker))); freed != 1 {
					must(nil, fmt.Errorf("the lock was lost"))
				}
			}
		}(worker)
	}
	group.Wait()
	do(connect(), of("GET", "contended"), of("GET", "guarded"))
}

func scripts() {
	connection := connect()
	add := redis.NewScript(1, "return redis.call('INCRBY', KEYS[1], ARGV[1])")
	do(connection, of("SCRIPT", "EXISTS", add.Hash()), of("EVALSHA", add.Hash(), 1, "scripted", 5))
	for again := 0; again < 3; again++ {
		// By digest, and the whole script when the server says NOSCRIPT.
		reply, err := add.Do(connection, "scripted", 5)
		say("called", reply, err)
		do(connection, of("GET", "scripted"), of("GET", "scripted"))
	}
	do(connection, of("SCRIPT", "FLUSH"))
	must(nil, add.SendHash(connection, "scripted", 1))
	must(nil, add.Send(connection, "scripted", 1))
	must(nil, add.SendHash(connection, "scripted", 1))
	must(nil, connection.Send("GET", "scripted"))
	reply, err := connection.Do("")
	say("sent", reply, err)
	say("load", nil, add.Load(connection))
	do(connection, of("EVAL", "redis.call('SET', 'scripted', 'by script') return 'done'", 0), of("GET", "scripted"),
		of("EVAL", "return {1, 'two', {3, {4}}, redis.status_reply('FINE'), false, 'seen', nil, 'not seen'}", 0),
		of("EVAL", "return redis.error_reply('MINE own words')", 0), of("EVAL", "return redis.call('INCR', KEYS[1])", 1, "scripted"),
		of("EVAL", "no lua", 0), of("SCRIPT", "KILL"),
		of("FUNCTION", "LOAD", "REPLACE", "#!lua name=mine\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)"),
		of("FCALL", "put", 1, "scripted", "by function"), of("GET", "scripted"), of("FUNCTION", "DELETE", "mine"))
}
