// The workload of redigo. Its arguments are the steps to run, for looking into a failure; without any it runs all.
package main

import (
	"fmt"
	"os"
)

const rounds = 2

var steps = []struct {
	name string
	run  func()
}{
	{"hot", hot}, {"strings", stringValues}, {"collections", collections}, {"structs", structs}, {"expiry", expiry},
	{"binary", binary}, {"scans", scans}, {"wrong", wrong},
	{"pipelines", pipelines}, {"transactions", transactions}, {"contention", contention}, {"scripts", scripts},
	{"subscriptions", subscriptions}, {"blocking", blocking}, {"streams", streams},
	{"names", names}, {"pools", pools}, {"databases", databases}, {"users", users}, {"kills", kills}, {"server", server},
}

func isWanted(step string) bool {
	for _, wanted := range os.Args[1:] {
		if wanted == step {
			return true
		}
	}
	return len(os.Args) == 1
}

func main() {
	for round := 0; round < rounds; round++ {
		cleaner := connect()
		must(cleaner.Do("FLUSHALL"))
		must(cleaner.Do("SCRIPT", "FLUSH"))
		for _, step := range steps {
			if isWanted(step.name) {
				said = fmt.Sprintf("%d/%s", round, step.name)
				step.run()
				closeAll()
			}
		}
		cleaner.Close()
	}
	fmt.Println("done")
}
