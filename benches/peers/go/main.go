// An SSE server as one writes it with net/http: a goroutine and a channel for each subscriber.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
)

type hub struct {
	mu          sync.Mutex
	subscribers map[chan []byte]struct{}
}

func (h *hub) events(w http.ResponseWriter, r *http.Request) {
	flusher := w.(http.Flusher)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	frames := make(chan []byte, 16)
	h.mu.Lock()
	h.subscribers[frames] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.subscribers, frames)
		h.mu.Unlock()
	}()
	flusher.Flush()
	for {
		select {
		case frame := <-frames:
			if _, err := w.Write(frame); err != nil {
				return
			}
			flusher.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (h *hub) publish(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	frame := []byte(fmt.Sprintf("data: %s\n\n", data))
	h.mu.Lock()
	for frames := range h.subscribers {
		frames <- frame
	}
	h.mu.Unlock()
	w.WriteHeader(http.StatusAccepted)
}

func main() {
	h := &hub{subscribers: make(map[chan []byte]struct{})}
	http.HandleFunc("/events", h.events)
	http.HandleFunc("/publish", h.publish)
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
