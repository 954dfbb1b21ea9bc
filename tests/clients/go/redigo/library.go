package main

import (
	"crypto/md5"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	// A reply that takes longer is lost: redigo reports it, and the step says so.
	timeout = 20 * time.Second
	// Longer values stand in the transcript as their length and digest.
	shownMax = 300
	// How what comes by itself is looked for.
	pollsMax     = 1000
	pollInterval = 10 * time.Millisecond
)

var (
	address = os.Getenv("REDIS_HOST") + ":" + os.Getenv("REDIS_PORT")
	// What the lines of the transcript begin with.
	said string
	// What the step has opened.
	opened []redis.Conn
)

// login is what a connection introduces itself with: see tests/clients/ecosystem.rs.
func login() []redis.DialOption {
	options := []redis.DialOption{
		redis.DialConnectTimeout(timeout), redis.DialReadTimeout(timeout), redis.DialWriteTimeout(timeout),
	}
	if name, given := os.LookupEnv("REDIS_USERNAME"); given {
		options = append(options, redis.DialUsername(name), redis.DialPassword(os.Getenv("REDIS_PASSWORD")))
	}
	return options
}

func dial(more ...redis.DialOption) (redis.Conn, error) {
	return redis.Dial("tcp", address, append(login(), more...)...)
}

// connect opens a connection for the step.
func connect(more ...redis.DialOption) redis.Conn {
	connection, err := dial(more...)
	must(nil, err)
	opened = append(opened, connection)
	return connection
}

func closeAll() {
	for _, connection := range opened {
		connection.Close()
	}
	opened = nil
}

func must(reply interface{}, err error) interface{} {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", said, err)
		os.Exit(1)
	}
	return reply
}

// say takes what a call of redigo returns.
func say(what string, reply interface{}, err error) {
	if err != nil {
		reply = err
	}
	fmt.Printf("%s/%s: %s\n", said, what, shown(reply))
}

func shown(value interface{}) string {
	text := written(value)
	if len(text) > shownMax {
		return fmt.Sprintf("<%d bytes, %x>", len(text), md5.Sum([]byte(text)))
	}
	return text
}

func written(value interface{}) string {
	switch value := value.(type) {
	case nil:
		return "nil"
	case []byte:
		return fmt.Sprintf("%q", value)
	case string:
		return fmt.Sprintf("+%q", value)
	case redis.Error:
		return "error " + string(value)
	case error:
		// An end, a reset or a broken pipe, by chance; and with the ports of both ends.
		if value.Error() == "EOF" || strings.Contains(value.Error(), "->") {
			return "network error"
		}
		return fmt.Sprintf("%T: %s", value, strings.ReplaceAll(value.Error(), address, "ADDRESS"))
	case []interface{}:
		items := make([]string, len(value))
		for index, item := range value {
			items[index] = written(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case map[string]string:
		items := []string{}
		for key, one := range value {
			items = append(items, fmt.Sprintf("%q: %q", key, one))
		}
		sort.Strings(items)
		return "{" + strings.Join(items, ", ") + "}"
	default:
		return fmt.Sprintf("%#v", value)
	}
}

// sorted is for replies without an order.
func sorted(reply interface{}, err error) (interface{}, error) {
	items, err := redis.Strings(reply, err)
	sort.Strings(items)
	return items, err
}

// until returns once something holds that comes by itself.
func until(holds func() bool) {
	for poll := 0; poll < pollsMax; poll++ {
		if holds() {
			return
		}
		time.Sleep(pollInterval)
	}
	must(nil, fmt.Errorf("it never came true"))
}

// beside runs a function with a connection of its own once somebody waits: a pop that nobody waits for tells nothing.
// Receive from what it returns to wait for its end.
func beside(run func(connection redis.Conn)) chan bool {
	connection := connect()
	over := make(chan bool)
	go func() {
		until(func() bool { return blocked(connection) > 0 })
		run(connection)
		close(over)
	}()
	return over
}

func blocked(connection redis.Conn) int {
	info := must(redis.String(connection.Do("INFO", "clients"))).(string)
	count := -1
	for _, line := range strings.Split(info, "\r\n") {
		fmt.Sscanf(line, "blocked_clients:%d", &count)
	}
	return count
}
