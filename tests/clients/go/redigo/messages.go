package main

import (
	"time"

	"github.com/gomodule/redigo/redis"
)

// Steps about waiting for others: pub/sub, blocking pops, streams with consumer groups.

func hear(subscriber redis.PubSubConn) {
	switch heard := subscriber.ReceiveWithTimeout(timeout).(type) {
	case redis.Message:
		say("message", []interface{}{heard.Channel, heard.Pattern, heard.Data}, nil)
	case redis.Subscription:
		say(heard.Kind, []interface{}{heard.Channel, heard.Count}, nil)
	case redis.Pong:
		say("pong", heard.Data, nil)
	case error:
		say("error", nil, heard)
	}
}

func subscriptions() {
	connection := connect()
	do(connection, of("SET", "subject", "old"), of("GET", "subject"), of("GET", "subject"))
	subscriber := redis.PubSubConn{Conn: connect()}
	must(nil, subscriber.Subscribe("news", "more"))
	must(nil, subscriber.PSubscribe("pattern:*"))
	for reply := 0; reply < 3; reply++ {
		hear(subscriber)
	}
	do(connection, of("PUBSUB", "NUMSUB", "news", "none"), of("PUBSUB", "NUMPAT"), of("PUBLISH", "news", "one"),
		of("PUBLISH", "pattern:x", "\x7f\r\n\x00two"), of("PUBLISH", "nobody", "three"))
	hear(subscriber)
	hear(subscriber)
	must(nil, subscriber.Ping("are you there"))
	hear(subscriber)
	do(connection, of("SET", "subject", "new"), of("PUBLISH", "news", "look"))
	hear(subscriber)
	do(connection, of("GET", "subject"))
	// What a subscriber may not do.
	must(nil, subscriber.Conn.Send("GET", "subject"))
	must(nil, subscriber.Conn.Flush())
	hear(subscriber)
	must(nil, subscriber.Unsubscribe("news"))
	must(nil, subscriber.PUnsubscribe())
	hear(subscriber)
	hear(subscriber)
	do(connection, of("PUBLISH", "news", "nobody hears"), of("PUBLISH", "more", "somebody hears"))
	hear(subscriber)
	must(nil, subscriber.Unsubscribe())
	hear(subscriber)
	do(subscriber.Conn, of("SET", "after", 1), of("GET", "after"), of("GET", "after"))
	must(nil, subscriber.Subscribe("silence"))
	hear(subscriber)
	say("nothing comes", nil, subscriber.ReceiveWithTimeout(50*time.Millisecond).(error))
	say("nothing comes any more", subscriber.Conn.Err() != nil, nil)
}

func blocking() {
	connection := connect()
	pop := func(name string, args ...interface{}) {
		reply, err := redis.DoWithTimeout(connection, timeout, name, args...)
		say(name, reply, err)
	}
	do(connection, of("RPUSH", "queue", "a", "b"), of("BLPOP", "queue", 1), of("BRPOP", "queue", 1), of("BLPOP", "queue", 0.05), of("BZPOPMIN", "zqueue", 0.05))
	for _, name := range []string{"BLPOP", "BRPOP"} {
		do(connection, of("LLEN", "queue"))
		over := beside(func(pusher redis.Conn) { must(pusher.Do("RPUSH", "queue", name)) })
		pop(name, "missing", "queue", 10)
		<-over
		do(connection, of("LLEN", "queue"), of("LRANGE", "queue", 0, -1))
	}
	over := beside(func(pusher redis.Conn) { must(pusher.Do("RPUSH", "queue", "moved")) })
	pop("BRPOPLPUSH", "queue", "working", 10)
	<-over
	over = beside(func(pusher redis.Conn) { must(pusher.Do("RPUSH", "queue", "again")) })
	pop("BLMOVE", "queue", "working", "LEFT", "RIGHT", 10)
	<-over
	over = beside(func(pusher redis.Conn) { must(pusher.Do("RPUSH", "queue", "x", "y", "z")) })
	pop("BLMPOP", 10, 2, "missing", "queue", "LEFT", "COUNT", 2)
	<-over
	do(connection, of("LRANGE", "working", 0, -1), of("LRANGE", "queue", 0, -1))
	over = beside(func(pusher redis.Conn) { must(pusher.Do("ZADD", "zqueue", 1, "first", 2, "second")) })
	pop("BZPOPMIN", "zqueue", 10)
	<-over
	do(connection, of("ZRANGE", "zqueue", 0, -1))
	// A client that gives up waiting hangs up. What comes later goes to whoever waits then.
	impatient := connect()
	_, err := redis.DoWithTimeout(impatient, 200*time.Millisecond, "BLPOP", "abandoned", 10)
	say("gives up", err != nil, nil)
	until(func() bool { return blocked(connection) == 0 })
	do(connection, of("RPUSH", "abandoned", "value"), of("LRANGE", "abandoned", 0, -1))
}

func streams() {
	connection := connect()
	for _, id := range []string{"1-1", "2-1", "3-1", "4-1"} {
		do(connection, of("XADD", "stream", id, "id", id, "raw", "\x00\x7f"))
	}
	for again := 0; again < 2; again++ {
		do(connection, of("XLEN", "stream"), of("XRANGE", "stream", "-", "+"), of("XREVRANGE", "stream", "+", "-", "COUNT", 2))
	}
	do(connection, of("XREAD", "STREAMS", "stream", "3-1"), of("XREAD", "STREAMS", "stream", "$"), of("XGROUP", "CREATE", "stream", "group", 0),
		of("XGROUP", "CREATE", "stream", "group", 0), of("XGROUP", "CREATE", "made", "group", "$", "MKSTREAM"),
		of("XREADGROUP", "GROUP", "group", "alice", "COUNT", 3, "STREAMS", "stream", ">"),
		of("XREADGROUP", "GROUP", "group", "bob", "COUNT", 1, "STREAMS", "stream", ">"), of("XACK", "stream", "group", "1-1", "9-9"),
		of("XPENDING", "stream", "group"), of("XREADGROUP", "GROUP", "group", "alice", "STREAMS", "stream", 0),
		of("XCLAIM", "stream", "group", "bob", 0, "2-1"), of("XAUTOCLAIM", "stream", "group", "carol", 0, "0-0", "COUNT", 1),
		of("XINFO", "GROUPS", "stream"), of("XDEL", "stream", "1-1"), of("XTRIM", "stream", "MAXLEN", 2), of("XRANGE", "stream", "-", "+"))
	over := beside(func(adder redis.Conn) { must(adder.Do("XADD", "stream", "10-1", "late", "yes")) })
	do(connection, of("XREAD", "BLOCK", 10_000, "STREAMS", "stream", "$"))
	<-over
	do(connection, of("XREADGROUP", "GROUP", "group", "alice", "COUNT", 9, "BLOCK", 10_000, "STREAMS", "stream", ">"),
		of("XREAD", "BLOCK", 30, "STREAMS", "stream", "$"), of("XGROUP", "DESTROY", "stream", "group"))
}
