// A small SSE server at /, as an application has one: GET is the stream, POST publishes its body. Prints its port.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

type event struct {
	id    int
	frame string
}

var (
	lock    sync.Mutex
	last    int
	history []event
	streams = map[chan string]bool{}
)

func publish(response http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	lock.Lock()
	defer lock.Unlock()
	last++
	one := event{last, fmt.Sprintf("id: %d\ndata: %s\n\n", last, body)}
	history = append(history, one)
	if len(history) > 1000 {
		history = history[1:]
	}
	for stream := range streams {
		select {
		case stream <- one.frame:
		default: // too slow: its request ends, and its client comes back
			delete(streams, stream)
			close(stream)
		}
	}
	response.WriteHeader(http.StatusAccepted)
}

func stream(response http.ResponseWriter, request *http.Request) {
	response.Header().Set("Content-Type", "text/event-stream")
	response.Header().Set("Cache-Control", "no-store")
	flusher := response.(http.Flusher)
	frames := make(chan string, 2000)
	fmt.Fprint(response, "retry: 100\n\n")
	lock.Lock()
	if after, err := strconv.Atoi(request.Header.Get("Last-Event-ID")); err == nil {
		for _, one := range history {
			if one.id > after {
				frames <- one.frame
			}
		}
	}
	streams[frames] = true
	lock.Unlock()
	defer func() {
		lock.Lock()
		defer lock.Unlock()
		delete(streams, frames)
	}()
	flusher.Flush()
	heartbeat := time.NewTicker(time.Second)
	defer heartbeat.Stop()
	for {
		select {
		case frame, open := <-frames:
			if !open {
				return
			}
			io.WriteString(response, frame)
		case <-heartbeat.C:
			io.WriteString(response, ":\n\n")
		case <-request.Context().Done():
			return
		}
		flusher.Flush()
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodPost {
			publish(response, request)
		} else {
			stream(response, request)
		}
	})))
}
