// The orders of one user, in a page that shows each new one at once, in all tabs.
package main

import (
	"embed"
	"encoding/json"
	"html/template"
	"log"
	"net/http"
	"os"
	"sync"
	"unicode/utf8"
)

//go:embed page.js *.html
var files embed.FS
var templates = template.Must(template.ParseFS(files, "*.html"))

type order struct {
	ID   int    `json:"id"`
	Item string `json:"item"`
}

// In place of a database.
var (
	lock      sync.Mutex
	lastOrder int
	orders    = map[string][]order{}
)

func main() {
	http.Handle("/page.js", http.FileServer(http.FS(files)))
	http.HandleFunc("/", showPage)
	http.HandleFunc("/login", logIn)
	http.HandleFunc("/orders", withUser(serveOrders))
	http.HandleFunc("/token", withUser(func(response http.ResponseWriter, _ *http.Request, user string) {
		setToken(response, user)
		response.WriteHeader(http.StatusNoContent)
	}))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), refuseOtherOrigins(http.DefaultServeMux)))
}

type state struct {
	Orders   []order `json:"orders"`
	Position string  `json:"position"` // empty if Fanfare does not answer
}

// stateOf asks for the position first. So an order that comes in between is in the state and in the stream, and missing in neither.
func stateOf(user string) state {
	position, err := positionOf(user)
	if err != nil {
		log.Print("no position from Fanfare: ", err)
	}
	lock.Lock()
	defer lock.Unlock()
	return state{append([]order{}, orders[user]...), position}
}

func showPage(response http.ResponseWriter, request *http.Request) {
	if request.URL.Path != "/" {
		http.NotFound(response, request)
		return
	}
	response.Header().Set("Cache-Control", "no-store")
	user := userOf(request)
	if user == "" {
		templates.ExecuteTemplate(response, "login.html", nil)
		return
	}
	setToken(response, user)
	templates.ExecuteTemplate(response, "orders.html", map[string]any{
		"User": user, "State": stateOf(user), "Topic": topicOf(user), "FanfareURL": fanfareURL, "TokenSeconds": tokenSeconds,
	})
}

func serveOrders(response http.ResponseWriter, request *http.Request, user string) {
	if request.Method == http.MethodPost {
		placeOrder(response, request.PostFormValue("item"), user)
		return
	}
	response.Header().Set("Cache-Control", "no-store")
	response.Header().Set("Content-Type", "application/json")
	json.NewEncoder(response).Encode(stateOf(user))
}

func placeOrder(response http.ResponseWriter, item string, user string) {
	if length := utf8.RuneCountInString(item); length < 1 || length > 200 {
		http.Error(response, "an item has 1 to 200 characters", http.StatusBadRequest)
		return
	}
	placed := save(user, item)
	// The order is safe without its event: pages then show it with their next state.
	if err := publish(topicOf(user), placed); err != nil {
		log.Printf("order %d was not published to Fanfare: %v", placed.ID, err)
	}
	response.WriteHeader(http.StatusNoContent)
}

func save(user, item string) order {
	lock.Lock()
	defer lock.Unlock()
	lastOrder++
	placed := order{lastOrder, item}
	orders[user] = append(orders[user], placed)
	return placed
}
