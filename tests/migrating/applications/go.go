// Publishes as a Go service does, with go-redis: one message for each line of standard input.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"

	"gopkg.in/redis.v5"
)

func main() {
	options, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		payload, err := json.Marshal(map[string]interface{}{"from": "go", "text": lines.Text(), "value": 1.5})
		if err != nil {
			log.Fatal(err)
		}
		if err := client.Publish("dashboard_updates", string(payload)).Err(); err != nil {
			log.Fatal(err)
		}
	}
}
